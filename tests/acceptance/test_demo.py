"""`make demo`: with a running stack, with its own Tokenwire, interrupted, and failing."""

import re
from pathlib import Path

from tests.acceptance.programs import Program, run_python
from tests.acceptance.stack import Stack
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import started_with
from tests.services.console_browser import Consoles


async def test_the_demo_passes_twice_against_one_stack(stack: Stack) -> None:
    """The demo can be repeated: it creates no conflicts and deletes all it created. It ends with a link to the page of
    its grant in the console, which an operator who has signed in sees.
    """
    before = await stack.operator("GET", "/api/apis")
    for _ in range(2):
        told = await run_python("examples.demo", TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY=stack.operator_key)
        assert told.status == 0, told.out
        assert re.search(r"^demo passed: \d+ steps$", told.out, re.MULTILINE)
        assert "the operator key in TOKENWIRE_OPERATOR_KEY" in told.out
        assert not stack.secrets.found_in(told.out)
        link = told.out.splitlines()[-1].strip()
        assert link.startswith(f"{stack.url}/console/grants/")
        async with Consoles(stack.url).browser() as browser:
            page = await browser.sign_in(stack.operator_key, link.removeprefix(stack.url))
        assert page.status == 200
        assert "grant.revoked" in page.plain
        assert not stack.secrets.found_in(page.text)
    assert (await stack.operator("GET", "/api/apis")).body == before.body


async def test_the_demo_brings_its_own_tokenwire_where_none_answers(tmp_path: Path) -> None:
    """If no Tokenwire runs, the demo starts one, and leaves neither process nor file."""
    told = await run_python(
        "examples.demo",
        within=250,
        TOKENWIRE_URL=f"http://127.0.0.1:{free_port()}",
        TOKENWIRE_MONGODB_URL="mongodb://not-to-be-used.invalid/",
        TMPDIR=str(tmp_path),
    )
    assert told.status == 0, told.out + told.complaints
    assert re.search(r"^demo passed: \d+ steps$", told.out, re.MULTILINE)
    assert "/console/grants/" not in told.out.partition("demo passed")[2], "a link to what has stopped"
    assert "With `make run` in another terminal" in told.out.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    assert started_with(f"TMPDIR={tmp_path}") == set()


async def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM in the middle of the demo also leaves neither process nor file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    own = {"TOKENWIRE_URL": f"http://127.0.0.1:{free_port()}", "TMPDIR": str(temporary)}
    demo = Program("examples.demo", own_environment=own, output=tmp_path / "said")
    demo.start()
    try:
        await eventually(lambda: "\n 2. " in demo.output, within=250)
        assert await demo.stop() == 130, demo.output
    finally:
        demo.close()
    assert "Traceback" not in demo.output
    assert list(temporary.iterdir()) == []
    assert started_with(f"TMPDIR={temporary}") == set()


async def test_the_demo_names_the_first_difference_and_fails(stack: Stack) -> None:
    """If the login page cannot be reached, the demo fails with the mismatch, and still deletes what it created."""
    before = await stack.operator("GET", "/api/apis")
    arguments = ("examples.demo", "--host-address", "demo.invalid")
    told = await run_python(*arguments, TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY=stack.operator_key)
    assert told.status == 1
    assert "demo failed in step" in told.out
    assert "expected: a response" in told.out
    assert (await stack.operator("GET", "/api/apis")).body == before.body


async def test_a_demo_with_a_wrong_operator_key_says_so(stack: Stack) -> None:
    """A wrong operator key is reported in one line without a traceback."""
    told = await run_python("examples.demo", TOKENWIRE_URL=stack.url, TOKENWIRE_OPERATOR_KEY="tw_ok_nonsense")
    assert told.status == 1
    assert "the operator key is refused" in told.complaints
    assert "Traceback" not in told.complaints
