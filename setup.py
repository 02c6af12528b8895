"""The packages: two folders have other names when installed, which `pyproject.toml` cannot say beside a search.

`pipelines/` is installed as `gam_kg_pipelines`, since a name as general as `pipelines` at the top of site-packages
could be anybody's; `configs/` is installed as `gam_kg/configs/`, where it is data.
"""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = ["gam_kg.configs", *(f"gam_kg.configs.{folder}" for folder in find_namespace_packages("configs"))]

setup(
    packages=[*find_packages(include=["gam_kg", "gam_kg.*"]), *CONFIGS, "gam_kg_pipelines"],
    package_dir={"gam_kg.configs": "configs", "gam_kg_pipelines": "pipelines"},
    package_data={"": ["py.typed"], **{folder: ["*"] for folder in CONFIGS}},
)
