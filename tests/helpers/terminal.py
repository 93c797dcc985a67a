"""A command in a terminal of a given width, and what is on its screen in the end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

TOKENS = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b")
ROWS = 1000  # high enough that nothing leaves the screen


def screen_of(command: Sequence[str], folder: Path, environment: Mapping[str, str], columns: int) -> list[str]:
    """The lines on the screen, without blanks at their ends, when the command has ended with status 0."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    written = b""
    try:
        while part := os.read(leader, 65536):
            written += part
    except OSError:  # how Linux says that nobody has the terminal open any more
        pass
    os.close(leader)
    text = written.decode(errors="replace")
    assert process.wait() == 0, text[-3000:]
    return screen(text, columns)


def screen(text: str, columns: int) -> list[str]:
    """What a terminal shows of a text with the control sequences that progress bars write."""
    lines, row, column = [[" "] * columns], 0, 0
    for numbers, control, move, plain in TOKENS.findall(text):
        count = int(numbers) if numbers.isdecimal() else 1
        if control == "A":
            row = max(0, row - count)
        elif control == "K":
            lines[row][0 if numbers == "2" else column :] = " " * (columns - (0 if numbers == "2" else column))
        elif move == "\r":
            column = 0
        elif move == "\n":  # the terminal writes a carriage return before it
            row, column = row + 1, 0
        for letter in plain:
            if column == columns:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append([" "] * columns)
            lines[row][column] = letter
            column += 1
        while len(lines) <= row:
            lines.append([" "] * columns)
    return ["".join(line).rstrip() for line in lines]
