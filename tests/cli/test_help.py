"""`--help` imports nothing heavy, and a wrong command line ends with a sentence and status 2."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

COMMANDS = (
    "align",
    "merge",
    "pairs",
    "predict",
    "score",
    "inspect",
    "audit",
    "cache list",
    "cache verify",
    "cache prune",
    "train",
    "bridge",
    "generate",
    "eval",
    "demo",
)
HEAVY = ("faiss", "numpy", "rich", "scipy", "tokenizers", "torch", "transformers")


def test_help_names_every_command(run):
    done = run("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  (\w+)  ", done.stdout.split("Commands:")[1], re.M)
    assert sorted(listed) == sorted({command.split()[0] for command in COMMANDS})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_and_json(run, command):
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"vocabridge {command}" in done.stdout.split("Examples:")[1]
    assert "--json" in done.stdout


@pytest.mark.parametrize("command", ["bridge", "eval"])
def test_the_short_names_of_value_networks_are_in_the_help(run, command):
    assert "gsm-symbolic-smollm2-135m" in "".join(run(command, "--help").stdout.split())


def test_the_version_is_printed(run):
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"vocabridge {importlib.metadata.version('vocabridge')}\n"


@pytest.mark.quick(4)
@pytest.mark.parametrize("arguments", ["--help", "--version", *(f"{command} --help" for command in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from vocabridge.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments.split()], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "[]\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("align onlyone", "Missing argument"),
        ("align a b --method guess", "There is no method 'guess'; choose among default, identical-bytes"),
        ("align a b --method identical-bytes,guess", "There is no method 'guess'"),
        ("align a b --source-embeddings .", "give both --source-embeddings and --target-embeddings"),
        ("align a b --distributions nowhere", "'nowhere' does not exist"),
        ("align a b --jobs 0", "Invalid value for '--jobs'"),
        ("align a b --shard 9/8 -o s", "there is no shard 9/8; count from 1"),
        ("align a b --shard half -o s", "'half' is not a shard"),
        ("align a b --shard 1/8", "name a file for the partial counts"),
        ("merge nowhere.safetensors -o pair.safetensors", "'nowhere.safetensors' does not exist"),
        ("merge -o pair.safetensors", "Missing argument"),
        ("pairs a -o pairs", "Name two tokenizers or more"),
        ("pairs a b", "Missing option '--output'"),
        ("pairs a b -o nowhere/pairs", "There is no folder"),
        ("pairs a b -o pairs --method guess", "There is no method 'guess'"),
        ("align a b --corpus nowhere.txt", "'nowhere.txt' does not exist"),
        ("align a b -o nowhere/pair.safetensors", "There is no folder"),
        ("inspect nowhere.safetensors", "'nowhere.safetensors' does not exist"),
        ("score nowhere.safetensors --model x --text .", "'nowhere.safetensors' does not exist"),
        ("score . --model x", "is a directory"),
        ("score --model x --text .", "Missing argument 'ALIGNMENT'"),
        ("predict", "Missing argument 'MODEL'"),
        ("predict x", "Missing option '--output'"),
        ("predict x -o nowhere/predictions.safetensors", "There is no folder"),
        ("predict x -o predictions.safetensors --top 0", "Invalid value for '--top'"),
        ("predict x -o predictions.safetensors --corpus nowhere.txt", "'nowhere.txt' does not exist"),
        ("train nowhere.jsonl -o out --source x", "'nowhere.jsonl' does not exist"),
        ("bridge -o b --base x --value y --alignment nowhere", "'nowhere' does not exist"),
        ("bridge -o b --base x --value y --combination nowhere", "'nowhere' does not exist"),
        ("bridge -o b --value y", "Missing option '--base'"),
        ("bridge -o b --base x", "Missing option '--value'"),
        ("bridge --base x --value y", "Missing option '--output'"),
        ("bridge -o nowhere/b --base x --value y", "There is no folder"),
        ("bridge -o b --base x --value y --policy guess", "Invalid value for '--policy'"),
        ("bridge -o b --base x --value y --value z --strength 1", "once for each, in the same order"),
        ("bridge -o b --base x --value y --value z --strength 1", "for one without: z"),
        ("bridge -o b --base x --value y --untuned u --untuned v", "--untuned is given 2 times and --value 1"),
        ("generate nowhere text", "'nowhere' does not exist"),
        ("generate", "Missing argument 'BRIDGE'"),
        ("generate . text --max-new-tokens 0", "Invalid value for '--max-new-tokens'"),
        ("generate . text --dtype int8", "Invalid value for '--dtype'"),
        ("eval --base x --value . --data nowhere.jsonl", "'nowhere.jsonl' does not exist"),
        ("demo --limit 0", "Invalid value for '--limit'"),
    ],
)
def test_wrong_usage_ends_with_a_sentence_and_status_2(run, arguments, message):
    done = run(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
