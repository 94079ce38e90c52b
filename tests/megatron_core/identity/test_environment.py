"""What differs between two machines."""

from __future__ import annotations

import importlib.metadata
import platform

from megatron_core.identity import Environment, likely_causes


def test_the_current_environment_is_this_one() -> None:
    here = Environment.current()
    assert here.python == platform.python_version()
    assert here.libraries["torch"] == importlib.metadata.version("torch")
    assert here == Environment.current()
    assert Environment.model_validate_json(here.model_dump_json()) == here


def test_causes_come_in_order_of_likelihood() -> None:
    here = Environment(
        cpu="A", instructions="avx2", gpu=None, python="3.11.1", system="Linux",
        libraries={"torch": "2.13", "numpy": "2.0", "gensim": "4"},
    )  # fmt: skip
    there = here.model_copy(
        update={
            "cpu": "B", "python": "3.12.0",
            "libraries": {"torch": "2.14", "numpy": "2.0", "pyhpo": "4"},
        }
    )  # fmt: skip
    assert likely_causes(here, there) == [
        "CPU: A here, B there",
        "Python: 3.11.1 here, 3.12.0 there",
        "gensim: 4 here, absent there",
        "pyhpo: absent here, 4 there",
        "torch: 2.13 here, 2.14 there",
    ]
    assert likely_causes(here, here) == []
