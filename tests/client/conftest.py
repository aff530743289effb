from tests.serve.conftest import sea

__all__ = ["sea"]
