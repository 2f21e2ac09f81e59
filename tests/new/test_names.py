"""What a project may be called."""

import keyword

import pytest

from trio_run._new._names import check_name
from trio_run._new._refused import Refused

RULE = (
    "must be a letter, then up to 39 ASCII letters, digits and single underscores, no underscore "
    "last"
)
HIDES = "is the name of a module that it would hide"
REPLACES = "is the name of a command that it would replace"
TAKES = "is the name of a place that the project needs for something else"
LONGEST = "a" * 40


@pytest.mark.parametrize(
    ("name", "problem", "another"),
    [
        ("my-shop", "is not a Python identifier", "my_shop"),
        ("2nd shop", "is not a Python identifier", "app_2nd_shop"),
        ("...", "is not a Python identifier", "my_service"),
        ("", "is not a Python identifier", "my_service"),
        ("a\udcffb", "is not a Python identifier", "a_b"),
        ("class", "is a Python keyword", "app_class"),
        ("None", "is a Python keyword", "none"),
        ("email", HIDES, "app_email"),
        ("test", HIDES, "my_service"),
        ("Trio_Run", HIDES, "app_trio_run"),
        ("starlette", HIDES, "app_starlette"),
        ("ruff", HIDES, "app_ruff"),
        ("pip", HIDES, "app_pip"),
        ("python", REPLACES, "app_python"),
        ("Python3", REPLACES, "app_python3"),
        ("activate", REPLACES, "app_activate"),
        ("tests", TAKES, "app_tests"),
        ("wheels", TAKES, "app_wheels"),
        (
            "root",
            "is the name of a user of the system, and systemd would run it as that one",
            "app_root",
        ),
        ("test_app", "looks like a file of tests, and pytest would take it for one", "app"),
        ("app_test", "looks like a file of tests, and pytest would take it for one", "app"),
        ("_shop", RULE, "shop"),
        ("my__shop", RULE, "my_shop"),
        ("größe", RULE, "gr_e"),
        (LONGEST + "a", RULE, "a" * 30),
    ],
)
def test_one_that_will_not_do_is_refused_with_one_that_will(
    name: str, problem: str, another: str
) -> None:
    with pytest.raises(Refused) as caught:
        check_name(name)
    assert str(caught.value) == (
        f"the package can't be called {name!r}: it {problem}; try --name {another}"
    )
    assert not keyword.iskeyword(another)
    check_name(another)


@pytest.mark.parametrize("name", ["a", "shop", "Shop", "log_collector", "web2", "match", LONGEST])
def test_one_that_will_do(name: str) -> None:
    check_name(name)
