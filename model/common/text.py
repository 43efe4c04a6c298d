"""Text that others wrote, such as names of files and classes, as one line that can be printed."""

# A line that a command prints or logs is never longer. What this program says by itself is far shorter.
_LONGEST_LINE = 4_000


def printable(text: str, length: int = _LONGEST_LINE) -> str:
    r"""Returns a text on one line of at most so many characters, in which nothing is hidden.

    Line breaks, the escape sequences of terminals, marks that turn the direction of writing and halves of characters
    stand there as Python writes them, such as `\n`, `\x1b` or `\u202e`. Too long a text loses its middle: of a path
    both ends are worth more.

    >>> printable("two\nlines")
    'two\\nlines'
    >>> printable("data/pets/cat/1.png", 11)
    'data/…1.png'
    """
    if len(text) > length:  # before it is escaped, which makes it longer
        text = _without_middle(text, length)
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return shown if len(shown) <= length else _without_middle(shown, length)


def _without_middle(text: str, length: int) -> str:
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
