"""YAML in which every key stands once: PyYAML would silently take the last of two."""

from __future__ import annotations

from typing import Any

import yaml

from paramcrop.errors import ConfigError


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: a mapping has a key twice; the message is "line 3 repeats the key train of line 1".
        yaml.YAMLError: the text is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check(each)
    if isinstance(node, yaml.MappingNode):
        lines = dict[str, int]()
        for key, value in node.value:
            line, name = key.start_mark.line + 1, key.value
            if isinstance(key, yaml.ScalarNode) and name in lines:
                raise ConfigError(f"line {line} repeats the key {name} of line {lines[name]}")
            if isinstance(key, yaml.ScalarNode):
                lines[name] = line
            _check(value)
