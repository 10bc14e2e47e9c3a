import pytest

from tests.unit.launcher.report.run_folder import write_data, write_run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture
def make_run(tmp_path, data):
    def make(name="run", **settings):
        return write_run(tmp_path / name, data, **settings)

    return make
