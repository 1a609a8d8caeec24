"""What may strike: a part of Airflow or of the cluster that is killed, a watch that breaks, an API that falters.

Each strikes twice: while Workspaces are in the middle of their phases, and while these phases end. What can be away for
a while stays away until all of them have ended, so that nobody sees it happen.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.airflow_run import wait
from tests.support.phases import PATIENCE, Lives
from tests.support.reconciled import DAGS, ReconciledStack, patiently, unpause


@dataclass(frozen=True)
class Strike:
    """Something that strikes; the default is that it stays away until it is told to come back.

    :param what: as in the sentence "... survives ...".
    """

    what: str
    #: Whether pods live on.
    spares_pods = True

    def down(self, stack: ReconciledStack) -> None:
        raise NotImplementedError

    def up(self, stack: ReconciledStack) -> None:
        raise NotImplementedError

    def in_the_middle(self, lives: Lives) -> None:
        self.down(lives.stack)
        self.up(lives.stack)

    def while_they_end(self, lives: Lives) -> None:
        self.down(lives.stack)
        lives.open()
        lives.until_ended()
        self.up(lives.stack)

    def before(self, stack: ReconciledStack) -> None:
        """Set the stage."""

    def after(self, stack: ReconciledStack) -> None:
        """All is over."""


@dataclass(frozen=True)
class Kill(Strike):
    """`kill -9` of a part of Airflow."""

    part: str = ""

    def down(self, stack: ReconciledStack) -> None:
        stack.airflow.kill(self.part)

    def up(self, stack: ReconciledStack) -> None:
        stack.airflow.start(self.part)
        stack.airflow.wait(DAGS)


@dataclass(frozen=True)
class KillWorkers(Strike):
    """`kill -9` of every worker that runs a task, with the task.

    LocalExecutor never gets the place of a killed worker's task back: it counts it as at work until the scheduler's
    next start. So there have to be more places than kills.
    """

    def before(self, stack: ReconciledStack) -> None:
        stack.airflow.restart("scheduler", AIRFLOW__CORE__PARALLELISM="40")
        stack.airflow.wait(DAGS)

    def after(self, stack: ReconciledStack) -> None:
        stack.airflow.restart("scheduler")
        stack.airflow.wait(DAGS)

    def down(self, stack: ReconciledStack) -> None:
        stack.airflow.kill("worker")

    def up(self, stack: ReconciledStack) -> None:
        stack.airflow.wait(DAGS)

    def while_they_end(self, lives: Lives) -> None:
        """Twice: a task that is killed again and again has failed, and that is right."""
        lives.open()
        self.down(lives.stack)
        lives.until_ended()
        self.down(lives.stack)


@dataclass(frozen=True)
class LoseTheDatabase(Strike):
    """All of Airflow ends, and begins again with an empty database."""

    def down(self, stack: ReconciledStack) -> None:
        stack.airflow.lose_the_database()

    def up(self, stack: ReconciledStack) -> None:
        stack.airflow.start()
        stack.airflow.wait(DAGS)
        unpause(stack)


@dataclass(frozen=True)
class KillTheCluster(Strike):
    """`kill -9` of the cluster's API server, and with it of its nodes and all pods."""

    spares_pods = False

    def down(self, stack: ReconciledStack) -> None:
        stack.kill_sandbox()

    def up(self, stack: ReconciledStack) -> None:
        stack.start_sandbox()
        patiently(lambda: stack.kubectl("get", "--raw", "/readyz"))

    def while_they_end(self, lives: Lives) -> None:
        lives.open()
        wait(lambda: lives.ended("dataset") or None, PATIENCE, "the end of the first")
        self.in_the_middle(lives)
        lives.until_ended()


@dataclass(frozen=True)
class DropTheWatches(Strike):
    """Every open watch is cut; in the middle three times in a row, later for as long as something ends."""

    def down(self, stack: ReconciledStack) -> None:
        for _ in range(3):
            stack.fault("watch-drop", target="*")

    def up(self, stack: ReconciledStack) -> None:
        """They come back by themselves."""

    def while_they_end(self, lives: Lives) -> None:
        lives.open()
        lives.until_ended(also=lambda phase: self.down(lives.stack))


@dataclass(frozen=True)
class FalterTheApi(Strike):
    """One request in twenty is answered by a 503, one by a 429 with Retry-After, one by nothing for a second."""

    def down(self, stack: ReconciledStack) -> None:
        stack.fault("api-error", target="* /api*", value=503, every=20)
        stack.fault("api-throttle", target="* /api*", value=1, every=23)
        stack.fault("api-latency", target="* /api*", value=1, every=21)

    def up(self, stack: ReconciledStack) -> None:
        """Not before all is over."""

    def while_they_end(self, lives: Lives) -> None:
        lives.open()
        lives.until_ended()

    def after(self, stack: ReconciledStack) -> None:
        stack.heal()


STRIKES: tuple[Strike, ...] = (
    Kill("kill -9 of the triggerer", "triggerer"),
    Kill("kill -9 of Airflow's API server", "api-server"),
    Kill("kill -9 of the scheduler", "scheduler"),
    KillTheCluster("kill -9 of the cluster"),
    LoseTheDatabase("the loss of Airflow's database"),
    KillWorkers("kill -9 of the workers"),
    DropTheWatches("watches that break"),
    FalterTheApi("an API server that falters"),
)
