"""The keys that type a character, in QEMU's names (`qapi-schema`: QKeyCode) for a keyboard with US layout. Pure."""

import string

_PLAIN = {
    " ": "spc", "\n": "ret", "\t": "tab", "\b": "backspace", "\x1b": "esc", "-": "minus", "=": "equal",
    "[": "bracket_left", "]": "bracket_right", ";": "semicolon", "'": "apostrophe", "`": "grave_accent",
    "\\": "backslash", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip
_SHIFTED = {
    "_": "-", "+": "=", "{": "[", "}": "]", ":": ";", '"': "'", "~": "`", "|": "\\", "<": ",", ">": ".", "?": "/",
    "!": "1", "@": "2", "#": "3", "$": "4", "%": "5", "^": "6", "&": "7", "*": "8", "(": "9", ")": "0",
}  # fmt: skip


def key_of(char: str) -> str:
    """The key, or keys with `-` between, that type a character; what is no such character is a key's name already."""
    if char in _SHIFTED:
        return f"shift-{key_of(_SHIFTED[char])}"
    if len(char) == 1 and char in string.ascii_uppercase:
        return f"shift-{char.lower()}"
    return _PLAIN.get(char, char)
