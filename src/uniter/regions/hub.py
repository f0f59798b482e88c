"""Models of transformers' from a folder; from the hub only where a name asks for it."""

from pathlib import Path
from typing import Any

HUB = "hub:"


def pretrained(kind: Any, name: str) -> Any:
    """`kind.from_pretrained` of a folder, or of a name after `hub:`, which is downloaded if it is not at hand.

    Args:
        kind: one of transformers' Auto classes.
        name: a folder, or `hub:` and the name of a repository.

    Raises:
        ValueError: there is no such folder, or nothing in it that `kind` can read.
    """
    asked = name.startswith(HUB)
    if not asked and not Path(name).is_dir():
        raise ValueError(
            f"there is no folder {name}: give one that `save_pretrained` wrote, or {HUB}{name} to download it "
            "from the hub"
        )
    try:
        return kind.from_pretrained(name.removeprefix(HUB), local_files_only=not asked)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(
            f"{name} cannot be read by {kind.__name__} ({str(error).strip().splitlines()[0][:200]}): give a folder "
            "with config.json, model.safetensors and preprocessor_config.json"
        ) from error
