"""Make a container image of a model's files, so that pods need no hub.

package
"""

from __future__ import annotations

from airflow.sdk import DAG
from kaito.operators.packaging import PackageModelOperator
from kaito.params import packaging_params
from kaito.pipelines import DEFAULT_ARGS, OWNER_LINKS

DOC = """
### kaito_package_model: a model as `<registry>/kaito-<preset>:<tag>`

One pod on a CPU node downloads the model (or reads it from a volume), checks the files as a server would, and pushes
them: one layer a file, uncompressed, by digest. What the registry has is not sent again, so a try that failed goes on.

* Only a model whose licence allows that, and that is not gated, goes to a registry that everybody can read.
* The result of `package` is the image by its digest: name it in a Workspace's annotation `kaito.sh/model-image`.
* The tag is the model's commit unless the form says another.
"""

with DAG(
    dag_id="kaito_package_model",
    dag_display_name="KAITO: make an image of a model",
    schedule=None,
    params=packaging_params(),
    default_args=DEFAULT_ARGS,
    owner_links=OWNER_LINKS,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["kaito", "serving"],
    doc_md=DOC,
) as dag:
    PackageModelOperator(task_id="package")
