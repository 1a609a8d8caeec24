"""The pages in Airflow's own security, with a database of its own and a cluster in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from kaito.ui.app import create_app
from kaito.ui.cluster import Cluster
from kaito.ui.mount import PREFIX

from tests.support.fake_pages import FakeHook
from tests.support.fleet import SERVING, reached, workspace

NAMED = workspace("phi")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An empty database of Airflow's."""
    from airflow import models
    from airflow.models.base import Base
    from sqlalchemy import create_engine

    models.import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('db') / 'airflow.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def airflow(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Airflow's simple auth manager on that database, with an empty audit log."""
    from airflow import settings
    from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
    from airflow.models.log import Log
    from sqlalchemy import delete
    from sqlalchemy.orm import scoped_session, sessionmaker

    made = sessionmaker(bind=database, expire_on_commit=False)
    monkeypatch.setattr(settings, "engine", database)
    monkeypatch.setattr(settings, "Session", scoped_session(made))
    monkeypatch.setattr(settings, "NonScopedSession", made)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
    with database.begin() as connection:
        connection.execute(delete(Log))
    yield create_auth_manager()
    purge_cached_app()


@pytest.fixture
def hook() -> FakeHook:
    return FakeHook(NAMED, reached(*SERVING, name="served"))


@pytest.fixture
def client(airflow: Any, hook: FakeHook) -> Iterator[TestClient]:
    outer = FastAPI()
    outer.mount(PREFIX, create_app(Cluster(hook)))
    with TestClient(outer, raise_server_exceptions=False, follow_redirects=False) as made:
        yield made


@pytest.fixture
def login(airflow: Any) -> Any:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def of(role: str) -> dict[str, str]:
        token = airflow.generate_jwt(SimpleAuthManagerUser(username=role, role=role))
        return {"Authorization": f"Bearer {token}"}

    return of


@pytest.fixture
def viewer(login: Any) -> dict[str, str]:
    return login("viewer")


@pytest.fixture
def user(login: Any) -> dict[str, str]:
    return login("user")
