"""Text that others wrote, such as names of files and classes, as one line that can be printed."""

# A line that a command prints or logs is never longer. What this program says by itself is far shorter.
_LONGEST_LINE = 4_000


def printable(text: str, length: int = _LONGEST_LINE, *, keeps_start: bool = True) -> str:
    r"""Returns a text on one line of at most so many characters, in which nothing is hidden.

    Line breaks, the escape sequences of terminals, marks that turn the direction of writing and halves of characters
    stand there as Python writes them, such as `\n`, `\x1b` or `\u202e`. Too long a text loses its middle, for of a path
    both ends are worth more, or its start.

    Example:
        >>> printable("two\nlines")
        'two\\nlines'
        >>> printable("data/pets/cat/1.png", 11)
        'data/…1.png'
        >>> printable("data/pets/cat/1.png", 11, keeps_start=False)
        '…/cat/1.png'
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in _cut(text, length, keeps_start)  # before it is escaped, which makes it longer
    )
    return _cut(shown, length, keeps_start)


def class_name(name: str, length: int = 60) -> str:
    """Returns the name of a class as `printable` does; of one that is too long the folders go first, from the outside.

    Example:
        >>> class_name("Fruit/Apple/Granny-Smith", 14)
        '…/Granny-Smith'
        >>> class_name("Vegetables/Onion/Yellow-Onion", 12)
        'Yellow-Onion'
        >>> class_name("Granny-Smith-Apple", 14)
        'Granny-…-Apple'
    """
    folders = name.split("/")
    shorter = ["…/" + "/".join(folders[first:]) for first in range(1, len(folders))]
    fitting = (candidate for candidate in (name, *shorter) if len(candidate) <= length)
    return printable(next(fitting, folders[-1] or name), length)


def _cut(text: str, length: int, keeps_start: bool) -> str:
    if len(text) <= length:
        return text
    end = (length - 1) // 2 if keeps_start else length - 1
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
