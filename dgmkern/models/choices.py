"""Settings that are one of a few names."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(config: Any) -> None:
    """Raise ValueError if a Literal field of a config has another value."""
    for name, hint in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise ValueError(f"{name}: unknown {name} {value!r}, want one of {', '.join(choices)}")
