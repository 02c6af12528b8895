import os

import pytest
import ray
from ray.data import DataContext
from ray.train import ControllerError

from gam_kg.errors import ConfigError, DataError, GamKGError
from pipelines.ray_session import ray_session

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_every_port_of_a_local_ray_is_on_loopback():
    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    # The address that workers bind to is the one that the node gave them.
    assert ray.get(ray.remote(ray.util.get_node_ip_address).remote()) == "127.0.0.1"


def test_a_running_ray_is_used_and_left_running():
    before = ray.get_runtime_context().get_job_id()
    with ray_session():
        assert ray.get_runtime_context().get_job_id() == before
    assert ray.is_initialized()


def test_settings_of_ray_data_are_put_back(monkeypatch):
    context = DataContext.get_current()
    monkeypatch.setattr(context, "print_on_execution_start", True)
    monkeypatch.setattr(context.execution_options, "preserve_order", False)
    with ray_session():
        assert not DataContext.get_current().print_on_execution_start
        assert DataContext.get_current().execution_options.preserve_order
    assert DataContext.get_current() is context
    assert context.print_on_execution_start
    assert not context.execution_options.preserve_order


def failing_with(error):
    # Nested, so that it travels by value: workers cannot import test modules.
    def fail(batch):
        raise error

    return fail


def generator_failing_with(error):
    def fail(batch):
        yield batch
        raise error

    return fail


def test_errors_for_the_user_come_out_as_they_went_in():
    fail = failing_with(DataError("row 7 is bad"))
    with pytest.raises(DataError) as error, ray_session():
        ray.get(ray.remote(fail).remote(None))
    assert (type(error.value), str(error.value)) == (DataError, "row 7 is bad")
    with pytest.raises(DataError) as error, ray_session():
        ray.data.range(2).map_batches(generator_failing_with(DataError("row 7 is bad"))).materialize()
    assert (type(error.value), str(error.value)) == (DataError, "row 7 is bad")


def test_the_reason_why_workers_do_not_start_comes_out():
    with pytest.raises(ConfigError, match=r"^no way to rank 0$"), ray_session():
        raise ControllerError(ConfigError("no way to rank 0"))


def test_a_local_ray_takes_a_token_of_its_own():
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()) == token
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_defects_keep_the_traceback_of_ray():
    with pytest.raises(RuntimeError, match=r"in fail(.|\n)*a defect") as error, ray_session():
        ray.get(ray.remote(failing_with(RuntimeError("a defect"))).remote(None))
    assert not isinstance(error.value, GamKGError)


def test_nothing_is_printed(capfd):
    with ray_session():
        assert ray.data.range(10).map_batches(lambda batch: batch).count() == 10
    assert capfd.readouterr() == ("", "")
