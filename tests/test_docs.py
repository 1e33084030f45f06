"""What README.md, CONTRIBUTING.md and docs/ say is there and runs: names, files, commands, Python, tables."""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer
from doc_pages import DOCS, GUIDE, PAGES, README, RESULTS, ROOT, blocks, cells, commands, tables

import vocabridge
import vocabridge.options
from vocabridge.cli import _app

COMMANDS = typer.main.get_command(_app.app)
WITH_PYTHON = [page for page in (README, *GUIDE) if blocks(page.read_text(encoding="utf-8"), "python")]


def by_path(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=by_path)
def text(request):
    return request.param.read_text(encoding="utf-8")


def exists(name):
    """Whether a dotted name is a module or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return module.startswith("vocabridge") and hasattr(importlib.import_module(module), attribute)
    return True


def test_every_module_that_is_named_exists(text):
    named = set(re.findall(r"`(vocabridge(?:\.[A-Za-z_]\w*)+)`", text))
    named |= set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    assert [name for name in sorted(named) if not exists(name)] == []


def test_every_file_of_the_repository_that_is_named_exists(text):
    named = set(re.findall(r"\b((?:vocabridge|alignment|cli|data|benchmarks|tests|docs)/[\w./-]+\.\w+)\b", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_every_link_to_a_file_leads_somewhere(page):
    targets = set(re.findall(r"\]\(([^)\s#]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")))
    local = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in sorted(local) if not (page.parent / target).exists()] == []


def test_code_in_python_is_valid_and_its_names_exist(text):
    for block in blocks(text, "python"):
        for node in ast.walk(ast.parse(textwrap.dedent(block))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("vocabridge"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vocabridge":
                assert hasattr(vocabridge, node.attr), node.attr


def test_every_command_parses(text, tmp_path, monkeypatch):
    """The application itself parses them, so names, values and ranges of options are right; none is run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("my-bridge", "mytexts"):
        (tmp_path / folder).mkdir()
    for line in commands(text):
        name, *arguments = shlex.split(line)[1:]
        for path in (tmp_path / word for word in arguments if re.fullmatch(r"[\w./-]+\.[a-z]+", word)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        command = COMMANDS.commands[name]
        if name != "cache":
            command.make_context(name, arguments)
        else:
            command.commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.fixture(scope="module")
def finished_folder(model_folders, tmp_path_factory):
    """A folder in which every command of the guide has run, with tiny models in place of those that the pages name."""
    from vocabridge.models.packaged import PACKAGED

    folder = tmp_path_factory.mktemp("user")
    stands_for = {
        "gemma-3-270m": model_folders.target,
        "smollm2-135m-instruct": model_folders.source,
        "big": model_folders.target,
        "small": model_folders.source,
        "small-chat": model_folders.tuned,
    }
    for name, tiny in stands_for.items():
        shutil.copytree(tiny, folder / name)
    for name, numbers in (("train", range(1, 9)), ("test", range(11, 15)), ("validation", range(21, 25))):
        items = [{"prompt": f"Question: {n}+{n}?\nAnswer:", "response": f" {2 * n}"} for n in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "unseen.txt").write_text("The dogs watch 12 lazy foxes.\n" * 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in list(PACKAGED):
            patch.delitem(PACKAGED, name)  # then its short name is that of the folder
        config = vocabridge.TrainingConfig(source="smollm2-135m-instruct", method="lora")
        vocabridge.train_value_network(config, "train.jsonl", Path("my-values"))
        vocabridge.save_bridge(vocabridge.build_bridge("gemma-3-270m", "my-values"), "my-bridge")
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=by_path)
def test_code_in_python_runs(page, request, tmp_path, monkeypatch):
    """A page's blocks run in their order, in a folder with what its commands would have made."""
    found = blocks(page.read_text(encoding="utf-8"), "python")
    from vocabridge.data import VALUE_NETWORKS
    from vocabridge.models.packaged import PACKAGED

    folder = tmp_path / "user"
    shutil.copytree(request.getfixturevalue("finished_folder"), folder)
    for name in list(PACKAGED):
        monkeypatch.delitem(PACKAGED, name)
    monkeypatch.setitem(VALUE_NETWORKS, "gsm-symbolic-smollm2-135m", folder / "shipped")
    shutil.copytree(folder / "my-values", folder / "shipped")
    if any("train_value_network(" in block for block in found):
        shutil.rmtree(folder / "my-values")
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{by_path(page)}, block {number}", "exec"), names)


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) <= 700


def test_changelog_is_short():
    assert len((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split()) <= 500


def test_each_thing_has_one_name():
    """Words that other words of the field stand for."""
    words = re.compile(r"\b(mend(ed|s)?|heard|has a say|nobody speaks|said so|told of)\b", re.IGNORECASE)
    pages = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
    found = {by_path(page): words.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert {page: hits for page, hits in found.items() if hits} == {}


def test_every_page_is_in_the_navigation_once():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    missing = [page.relative_to(ROOT / "docs").as_posix() for page in DOCS]
    assert [page for page in missing if not re.search(rf"\b{re.escape(page)}$", navigation, re.MULTILINE)] == []
    listed = re.findall(r"[\w/-]+\.md", navigation)
    assert len(listed) == len(set(listed))
    assert "notes/" not in navigation


def glossary():
    """The terms, in lower case, and the text of the glossary."""
    text = (ROOT / "docs" / "concepts" / "overview.md").read_text(encoding="utf-8").partition("\n## Glossary\n")[2]
    return {" ".join(term.lower().split()) for term in re.findall(r"\*\*([^*]+)\*\*", text)}, text


def every_command(group=COMMANDS):
    """Every command of the application."""
    for command in group.commands.values():
        yield from every_command(command) if hasattr(command, "commands") else [command]


# Options of any program, and those that mean what they mean in transformers and torch.
ORDINARY_OPTIONS = {
    *("--json", "--output", "-o", "--html", "--text", "--all", "--jobs", "--target", "--stop"),
    *(
        "--device",
        "--value-device",
        "--dtype",
        "--seed",
        "--temperature",
        "--top-p",
        "--beams",
        "--prompt",
        "--response",
    ),
}


def test_the_glossary_has_every_option():
    _, text = glossary()
    options = {option for command in every_command() for parameter in command.params for option in parameter.opts}
    options = {option for option in options if option.startswith("-")}
    known = set(re.findall(r"`(--?[a-z][\w-]*)", text)) | ORDINARY_OPTIONS
    assert sorted(options - known) == []
    assert sorted(known - options) == []


def test_the_glossary_has_every_choice_of_an_option():
    _, text = glossary()
    enums = [getattr(vocabridge.options, name) for name in dir(vocabridge.options) if name[0].isupper()]
    choices = {member.value for kind in enums if hasattr(kind, "__members__") for member in kind}
    assert [choice for choice in sorted(choices) if f"`{choice}`" not in text] == []


# Column names that mean what they mean everywhere, and names of models, machines and figures.
ORDINARY_COLUMNS = re.compile(
    r"|[\d.]+|at|text|bytes|ids|single bytes|unused|context|batch|time|ratio|peak memory|peer|build|machine|page|"
    r"question|name in the tables|what|mode|its limits|difference|bits|network|fit|same likeliest byte|tokens|"
    r"tokenizer|model|all models|mean|gemma-3|llama-3|qwen|deepseek|cl100k|raw strings|one space marker swapped|"
    r"smollm2|on its base|most lost|(s|bits|ms) a (byte|token)|learned tokens a second|vocabridge|genlm-bytes"
)


def test_the_glossary_has_every_column_of_a_table_of_results():
    terms, text = glossary()
    terms |= set(re.findall(r"`([^`]+)`", text))
    headers = {
        cell for page in RESULTS for table in tables(page.read_text(encoding="utf-8")) for cell in cells(table[0])
    }
    unknown = []
    for header in sorted(headers):
        plain = re.sub(r"[*`]|\([^)]*\)", "", header.lower())
        plain = re.sub(r"^(smollm2|gemma-3)( -> [\w-]+)?:|, %|, \d+ items|^onto [\w-]+: ", "", plain)
        parts = [part.strip() for part in re.split(r",|: | or ", plain)]
        unknown += [header for part in parts if not (part in terms or ORDINARY_COLUMNS.fullmatch(part))]
    assert unknown == []


@pytest.mark.parametrize("page", RESULTS, ids=by_path)
def test_every_table_of_results_says_where_it_comes_from(page):
    """In front of it is a command that exists, then commit, date and hardware. Other commands parse, see above."""
    made = ""
    for part in re.split(r"(^```sh\n.*?^```$)", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        if part.startswith("```sh"):
            made = part
        elif tables(part) and page.stem != "index":
            assert made, part[:200]
            stated = re.match(r"\n+\*Commit `[0-9a-f]{7}`, \d{4}-\d\d-\d\d, (Xeon|EPYC|2 cores)[^*]*\*\n", part)
            assert stated, part[:200]
    for script, options in re.findall(r"^python (\S+)((?:.*\\\n)*.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        source = (ROOT / script).read_text(encoding="utf-8")
        named = re.findall(r"(?<=\s)--([a-z][\w-]*)", options)
        made_in_loops = set(re.findall(r"for name in \(([^)]*)\)", source))
        known = set(re.findall(r'"--([a-z][\w-]*)"', source)) | {
            w for t in made_in_loops for w in re.findall(r'"(\w+)"', t)
        }
        assert [name for name in named if name not in known] == [], script
    targets = re.findall(r"^make (\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)


def test_every_picture_is_there_and_has_a_text(text):
    for alternative, _ in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
        assert len(alternative.split()) >= 5


def test_the_picture_of_readme_is_made_of_the_report_of_the_results(tmp_path):
    command = re.findall(r"^python (benchmarks/figures.py .*)$", (ROOT / "docs/results/bridge.md").read_text(), re.M)
    script, report, _, picture = command[0].split()
    assert f"]({picture})" in README.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / script, ROOT / report, "--output", tmp_path / "made.svg"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    described = re.compile(r'aria-label="([^"]*)"')
    made, kept = ((tmp_path / "made.svg").read_text(), (ROOT / picture).read_text())
    assert described.findall(made) == described.findall(kept)
    assert "prefers-color-scheme: dark" in kept
    for measured in json.loads((ROOT / report).read_text())["measured"]:
        bits, milliseconds = f"{measured['bits_per_byte']['value']:.3f}", f"{measured['token_ms']:.0f}"
        assert f"{measured['name']}: {bits} bits, {milliseconds} ms" in described.findall(kept)[0]
        (alternative,) = re.findall(r"!\[([^\]]*)\]", README.read_text(encoding="utf-8"))
        assert {bits, milliseconds} <= {word.strip(",.") for word in alternative.split()}


def test_file_formats_have_the_numbers_of_the_code():
    from vocabridge.alignment import alignment, distributions
    from vocabridge.alignment.counting import shards
    from vocabridge.bridge import manifest
    from vocabridge.evaluation import run_store
    from vocabridge.models import value_network_files

    text = (ROOT / "docs" / "reference" / "file-formats.md").read_text(encoding="utf-8")
    (table, *_) = tables(text)
    stated = {cells(row)[0]: int(cells(row)[1]) for row in table[2:]}
    assert stated == {
        "an alignment, `*.safetensors`": alignment.FORMAT,
        "partial counts, `*.safetensors`": shards.FORMAT,
        "distributions, `*.safetensors`": distributions._SEAL.format,
        "`value_network.json`": value_network_files.FORMAT,
        "`bridge.json`": manifest.FORMAT,
        "`run.json` of an evaluation": run_store.FORMAT,
    }
    numbers = [int(number) for number in re.findall(r"^\| `format` \| (\d+) \|$", text, re.MULTILINE)]
    assert numbers == [alignment.FORMAT, value_network_files.FORMAT, manifest.FORMAT]


def test_file_formats_have_the_keys_that_are_written(finished_folder):
    text = (ROOT / "docs" / "reference" / "file-formats.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.]+)`", text))
    for name in ("my-bridge/bridge.json", "my-values/value_network.json"):
        content = json.loads((finished_folder / name).read_text(encoding="utf-8"))
        assert written_keys(content) - documented == set(), name
    line = json.loads(
        (finished_folder / "my-values" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )
    assert set(line) - documented == set()
    assert {path.name for path in (finished_folder / "my-values").iterdir()} - {"checkpoints"} <= documented


def written_keys(value):
    """The keys of an object and of those in it, but for what the page calls the fields of a class, or provenance."""
    if isinstance(value, list):
        return set().union(*map(written_keys, value))
    if not isinstance(value, dict):
        return set()
    own = {"limits", "boundary_config", "training", "configs"}
    return set(value).union(*(written_keys(part) for key, part in value.items() if key not in own))


def test_the_weights_before_a_fit_are_those_of_the_code():
    from vocabridge.projection.combination import UNFITTED

    (table,) = tables((ROOT / "docs" / "reference" / "defaults.md").read_text(encoding="utf-8"))
    weights = (UNFITTED.base_weight, UNFITTED.tuned_weight, UNFITTED.untuned_weight)
    assert cells(table[2]) == [*map(str, weights), UNFITTED.method.value, UNFITTED.form.value]
