"""`make demo`: against a running stack, with its own, interrupted, and when something is not as it has to be."""

import re
from pathlib import Path

from tests.acceptance.programs import Program, run_python
from tests.acceptance.stack import Stack
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import started_with


async def test_the_demo_passes_twice_against_one_stack(stack: Stack) -> None:
    """It collides with nothing and leaves nothing behind."""
    before = await stack.operator("GET", "/api/apis")
    for _ in range(2):
        told = await run_python("examples.demo", TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY=stack.operator_key)
        assert told.status == 0, told.out
        assert re.fullmatch(r"demo passed: \d+ steps", told.out.splitlines()[-1])
        assert not stack.secrets.found_in(told.out)
    assert (await stack.operator("GET", "/api/apis")).body == before.body


async def test_the_demo_brings_its_own_tokenwire_where_none_answers(tmp_path: Path) -> None:
    """What it started it stops: no process and no file is left."""
    told = await run_python(
        "examples.demo",
        within=100,
        TOKENWIRE_URL=f"http://127.0.0.1:{free_port()}",
        TOKENWIRE_MONGODB_URL="mongodb://not-to-be-used.invalid/",
        TMPDIR=str(tmp_path),
    )
    assert told.status == 0, told.out + told.complaints
    assert re.fullmatch(r"demo passed: \d+ steps", told.out.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []
    assert started_with(f"TMPDIR={tmp_path}") == set()


async def test_a_demo_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    """In the middle of the story too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    own = {"TOKENWIRE_URL": f"http://127.0.0.1:{free_port()}", "TMPDIR": str(temporary)}
    demo = Program("examples.demo", own_environment=own, output=tmp_path / "said")
    demo.start()
    try:
        await eventually(lambda: "\n 2. " in demo.output, within=100)
        assert await demo.stop() == 130, demo.output
    finally:
        demo.close()
    assert "Traceback" not in demo.output
    assert list(temporary.iterdir()) == []
    assert started_with(f"TMPDIR={temporary}") == set()


async def test_a_demo_that_meets_a_difference_says_which_and_fails(stack: Stack) -> None:
    """Here the login page has an address that does not exist; what was made before is deleted all the same."""
    before = await stack.operator("GET", "/api/apis")
    arguments = ("examples.demo", "--host-address", "demo.invalid")
    told = await run_python(*arguments, TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY=stack.operator_key)
    assert told.status == 1
    assert "demo failed in step" in told.out
    assert "expected: an answer" in told.out
    assert (await stack.operator("GET", "/api/apis")).body == before.body


async def test_a_demo_with_a_wrong_operator_key_says_so(stack: Stack) -> None:
    """One line, no trace."""
    told = await run_python("examples.demo", TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY="tw_ok_nonsense")
    assert told.status == 1
    assert "the operator key is refused" in told.complaints
    assert "Traceback" not in told.complaints
