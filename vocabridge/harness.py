"""Run lm-evaluation-harness with bridges among its models.

    python -m vocabridge.harness --model vocabridge --model_args bridge=my-bridge --tasks arc_easy,gsm8k

runs `lm_eval` with the additional model `vocabridge`, because `lm_eval` itself does not find models of other packages.
`vocabridge.evaluation.lm_eval_model` registers the model.
"""

from __future__ import annotations

import sys

from vocabridge.alignment.errors import VocabridgeError


def main() -> None:
    """Register the model and run the command line of `lm_eval`."""
    try:
        import vocabridge.evaluation.lm_eval_model  # noqa: F401  # registers the model
    except VocabridgeError as error:
        if {"-h", "--help"} & set(sys.argv[1:]):
            message = str(error)
            print(f"{__doc__}\nThe options are those of lm_eval. {message[0].upper()}{message[1:]}")
            return
        sys.exit(f"error: {error}")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
