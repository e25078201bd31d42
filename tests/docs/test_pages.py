"""Every fenced block of README.md and docs/ runs, and every link between pages leads somewhere."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.blocks import REPO, Block, Page, blocks_of, trains, unused
from tests.docs.world import prepare

PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
LONG = 6
# Pages that are written when the site is built.
GENERATED = {f"docs/reference/{name}.md" for name in ("commands", "columns", "python", "families")}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    prepare(folder)
    return folder


@pytest.fixture
def page(world: Path, tmp_path: Path) -> Page:
    return Page(shutil.copytree(world, tmp_path / "page"))


def _parameter(path: Path) -> object:
    """Pages of many blocks take long, as those that train do."""
    blocks = blocks_of(path)
    marks = [pytest.mark.train] if trains(blocks) or len(blocks) > LONG else []
    return pytest.param(path, id=str(path.relative_to(REPO)), marks=marks)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", [_parameter(path) for path in PAGES])
def test_the_blocks_of_a_page_run(path: Path, page: Page) -> None:
    blocks = blocks_of(path)
    assert not unused(blocks)
    for block in blocks:
        try:
            page.run(block)
        except Exception as error:
            error.add_note(f"{path.relative_to(REPO)}, line {block.line}")
            raise


BROKEN = {
    "a command that fails": ("sh", "scramble inspect nothing/", "exit code 2"),
    "a failure in the shell": ("sh", "scramble --help | cat\nscramble inspect nothing/ | cat", "exit code 2"),
    "a failure in a pipe": ("sh", "false | cat", "exit code 1"),
    "a target that make lacks": ("sh", "make demonstration", "exit code 2"),
    "an extra that is not there": ("sh", "pip install -c constraints.txt '.[run]'", "no such extra"),
    "a file that is not there": ("sh", "pip install -c pins.txt '.[runs]'", "there is no pins.txt"),
    "a package of others": ("sh", "pip install scramble", "not a package that the project needs"),
    "Python that raises": ("python", "import scramble\nscramble.nonsense", "no attribute"),
    "an unknown key": ("yaml", "stepz: 3", "unknown key"),
    "an unknown key in a file": ("yaml", "# recipe.yaml\nmodel: model\nsteps: 1\ntask: {name: math}", "data"),
    "an experiment without a base": (
        "yaml",
        "name: x\nbase: model\narms: {a: [vo-rotation]}\nseeds: [1]\nrecipe: {}",
        "exactly one arm",
    ),
    "no language": ("", "anything", "language ''"),
    "another language": ("bash", "true", "language 'bash'"),
    "output of nothing": ("text", "4", "no block before"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_block_fails(name: str, tmp_path: Path) -> None:
    language, text, message = BROKEN[name]
    with pytest.raises(Exception, match=re.escape(message)):
        Page(tmp_path).run(Block(language, text, 1))


def test_output_is_what_the_block_before_printed(tmp_path: Path) -> None:
    page = Page(tmp_path)
    page.run(Block("python", "print('one  two', 3)", 1))
    page.run(Block("text", "one two ...", 2))
    for wrong, message in (("one three", "what was printed"), ("$ ls\none", "holds a command")):
        with pytest.raises(AssertionError, match=message):
            page.run(Block("text", wrong, 2))


def test_files_and_names_stay_from_block_to_block(tmp_path: Path) -> None:
    page = Page(tmp_path)
    for block in (
        Block("python", "from pathlib import Path\nfound = 2", 1),
        Block("sh", "echo 3 > three", 1),
        Block("python", "assert found + int(Path('three').read_text()) == 5", 1),
    ):
        page.run(block)
    file = Block("python", "# test_it.py\nraise ValueError", 1)
    page.run(file)
    assert (tmp_path / "test_it.py").exists()
    assert unused([file]) == ["test_it.py"]
    assert not unused([file, Block("sh", "pytest test_it.py", 1)])


def test_what_trains_is_known(tmp_path: Path) -> None:
    assert trains([Block("sh", "scramble run recipe.yaml", 1)])
    assert trains([Block("sh", "ls\nscramble experiment run x.yaml", 1)])
    assert not trains([Block("sh", "scramble runs list\nscramble experiment plan x.yaml", 1)])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_links_lead_to_pages_and_headings(path: Path) -> None:
    assert not [target for target in _links(path) if not _leads(path, target)]


def test_a_link_to_nothing_is_seen(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-b) [c](other.md#c) [d](none.md) [e](#here) [f](https://x.y)\n"
    )
    other.write_text("# A & `b`\n")
    assert [target for target in _links(page) if not _leads(page, target)] == [
        "other.md#c",
        "none.md",
        "#here",
    ]


def _links(path: Path) -> list[str]:
    """Targets of links and images that are no addresses."""
    inner = [
        one for token in MarkdownIt("commonmark").parse(path.read_text()) for one in token.children or ()
    ]
    found = [str(one.attrs.get("href", one.attrs.get("src", ""))) for one in inner]
    return [target for target in found if target and not re.match(r"[a-z]+:", target)]


def _leads(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    to = (path.parent / name).resolve() if name else path
    if to.is_relative_to(REPO) and str(to.relative_to(REPO)) in GENERATED:
        return True
    return to.exists() and (not anchor or anchor in _anchors(to))


def _anchors(path: Path) -> set[str]:
    """Of a page's headings, as the site and GitHub name them."""
    tokens = MarkdownIt("commonmark").parse(path.read_text())
    texts = [
        "".join(one.content for one in inline.children or ())
        for heading, inline in pairwise(tokens)
        if heading.type == "heading_open"
    ]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in texts}
