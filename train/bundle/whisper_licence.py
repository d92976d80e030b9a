"""Texts of LICENSE for bundles made of Whisper's layers."""

from __future__ import annotations

_WHISPER = (
    "The encoder's weights are those of Whisper base (Radford et al., 2022), copyright (c) 2022\n"
    "OpenAI, MIT licence: permission is granted, free of charge, to deal in them without\n"
    "restriction, provided that this notice and the permission notice are kept; they come\n"
    "without warranty of any kind.\n"
)
_MIT_NOTICE = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
_OPEN_SOURCES = """\
It was trained on two corpora, and neither has a non-commercial clause:

- EMO-DB (Burkhardt et al., 2005), CC0 1.0.
- CREMA-D (Cao et al., 2014). Contains information from CREMA-D, which is made available under the
  Open Database License 1.0 (https://opendatacommons.org/licenses/odbl/1-0/), its contents under
  the Database Contents License 1.0. They ask for attribution, and for share-alike of derivative
  databases.

Whether weights trained on a database are a derivative database of it is an open question. If they
are, the ODbL's share-alike applies to these weights. This is no legal advice.

The output that tells speech from other sounds was also trained on music and sounds of Debian
packages, which have licences of their own; that of drascula-music forbids charging for the game.
"""
TEXTS = {
    "CC-BY-NC-SA-4.0": (
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International\n"
        "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode\n\n"
        "The head in this folder was trained on RAVDESS (Livingstone and Russo, 2018), nEMO\n"
        "(Christop, 2024) and the Indian EmoSpeech Command Dataset (Banga et al., 2019), all\n"
        "under this licence, on CREMA-D (Cao et al., 2014, ODbL 1.0 and DbCL 1.0) and on EMO-DB\n"
        "(Burkhardt et al., 2005, CC0). You may use and change it for purposes that are not\n"
        "commercial, if you name these sources and pass what you make of it on under the same\n"
        "licence.\n\n" + _WHISPER
    ),
    "MIT": (
        "Copyright (c) 2026 the speech-emotion-pipeline authors. The head in this folder is under\n"
        "the MIT licence; the permission notice is below.\n\n"
        + _OPEN_SOURCES
        + "\n"
        + _WHISPER
        + "\n"
        + _MIT_NOTICE
    ),
}
"""SPDX identifier → text."""
CARD_TEXTS = {
    "MIT": (
        "The head is under the MIT licence. "
        + _OPEN_SOURCES
        + "\nThe encoder is Whisper base (OpenAI), MIT licence. LICENSE has the notices."
    )
}
"""SPDX identifier → section of the model card, where there is one."""
