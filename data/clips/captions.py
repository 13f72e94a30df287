"""Captions: text -> words, the same way for clips and for prompts."""
import codecs
import unicodedata

from sora import InputError

MOST = 1000                                             # words of a caption
INNER = "_-'\N{RIGHT SINGLE QUOTATION MARK}"            # kept inside a word, as in "one-handed"
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
         (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))               # UTF-32 first: its mark begins with UTF-16's


def words_in(text):
    """The words of a caption or prompt, in lower case, in their order, without punctuation.

    Words that look alike become alike: accents are composed, wide and invisible characters replaced.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    kept = []
    for char in text:
        kind = unicodedata.category(char)
        if kind[0] in "LMNS" or char in INNER:          # letters, marks, numbers, symbols
            kept.append(char)
        elif kind != "Cf":                              # invisible: joins what stands on either side
            kept.append(" ")
    words = [word.strip(INNER) for word in "".join(kept).split()]
    return [word for word in words if word]


def read_caption(path):
    """The words in a text file. InputError, naming it, if it is no text or has too many words."""
    with open(path, "rb") as file:
        data = file.read(MOST * 100)                    # a longer one cannot be a caption
        if file.read(1):
            raise InputError(f"{path}: a caption of more than {MOST * 100} bytes; expected up to {MOST} words")
    encoding = "utf-8"
    for mark, name in MARKS:
        if data.startswith(mark):
            encoding = name
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not {encoding}; save the caption as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}: not text (a zero byte); save the caption as UTF-8")
    return check_words_in(text, path)


def check_words_in(text, source):
    """`words_in`, or an InputError that names the source."""
    words = words_in(text)
    if len(words) > MOST:
        raise InputError(f"{source}: a caption of {len(words)} words; expected up to {MOST}")
    return words
