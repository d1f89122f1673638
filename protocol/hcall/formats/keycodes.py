"""The names of keys, buttons, axes and LEDs, as linux/input-event-codes.h has them, and what a US keyboard types."""

from __future__ import annotations

from typing import Final

# From code 1 on, without KEY_; 84 is nobody's.
_KEYS: Final = """
ESC 1 2 3 4 5 6 7 8 9 0 MINUS EQUAL BACKSPACE TAB Q W E R T Y U I O P LEFTBRACE RIGHTBRACE ENTER LEFTCTRL
A S D F G H J K L SEMICOLON APOSTROPHE GRAVE LEFTSHIFT BACKSLASH Z X C V B N M COMMA DOT SLASH RIGHTSHIFT KPASTERISK
LEFTALT SPACE CAPSLOCK F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NUMLOCK SCROLLLOCK KP7 KP8 KP9 KPMINUS KP4 KP5 KP6 KPPLUS
KP1 KP2 KP3 KP0 KPDOT - ZENKAKUHANKAKU 102ND F11 F12 RO KATAKANA HIRAGANA HENKAN KATAKANAHIRAGANA MUHENKAN KPJPCOMMA
KPENTER RIGHTCTRL KPSLASH SYSRQ RIGHTALT LINEFEED HOME UP PAGEUP LEFT RIGHT END DOWN PAGEDOWN INSERT DELETE MACRO
MUTE VOLUMEDOWN VOLUMEUP POWER KPEQUAL KPPLUSMINUS PAUSE SCALE KPCOMMA HANGEUL HANJA YEN LEFTMETA RIGHTMETA COMPOSE
STOP AGAIN PROPS UNDO FRONT COPY OPEN PASTE FIND CUT HELP MENU CALC SETUP SLEEP WAKEUP FILE SENDFILE DELETEFILE XFER
PROG1 PROG2 WWW MSDOS COFFEE ROTATE_DISPLAY CYCLEWINDOWS MAIL BOOKMARKS COMPUTER BACK FORWARD CLOSECD EJECTCD
EJECTCLOSECD NEXTSONG PLAYPAUSE PREVIOUSSONG STOPCD RECORD REWIND
"""
KEYS: Final = {f"KEY_{name}": code for code, name in enumerate(_KEYS.split(), 1) if name != "-"}
BUTTONS: Final = {
    "BTN_LEFT": 0x110, "BTN_RIGHT": 0x111, "BTN_MIDDLE": 0x112, "BTN_SIDE": 0x113, "BTN_EXTRA": 0x114,
    "BTN_FORWARD": 0x115, "BTN_BACK": 0x116, "BTN_TASK": 0x117,
}  # fmt: skip
AXES: Final = {"REL_X": 0, "REL_Y": 1, "REL_HWHEEL": 6, "REL_WHEEL": 8, "REL_WHEEL_HI_RES": 11, "REL_HWHEEL_HI_RES": 12}
LEDS: Final = {"LED_NUML": 0, "LED_CAPSL": 1, "LED_SCROLLL": 2, "LED_COMPOSE": 3, "LED_KANA": 4}
WHEEL_NOTCH: Final = 120  # of high resolution in one of REL_WHEEL

# What each key types, alone and with shift, in the order of the codes from each first key on.
_ROWS: Final = (
    ("KEY_1", "1234567890-=", "!@#$%^&*()_+"), ("KEY_TAB", "\tqwertyuiop[]\n", "\tQWERTYUIOP{}\n"),
    ("KEY_A", "asdfghjkl;'`", 'ASDFGHJKL:"~'), ("KEY_BACKSLASH", "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    ("KEY_SPACE", " ", " "),
)  # fmt: skip


def typed() -> dict[str, tuple[int, bool]]:
    """For each character of a US keyboard: the key, and whether with shift."""
    found: dict[str, tuple[int, bool]] = {}
    for first, plain, shifted in _ROWS:
        for shift, row in ((True, shifted), (False, plain)):  # without, where both type the same
            found |= {character: (KEYS[first] + n, shift) for n, character in enumerate(row)}
    return found
