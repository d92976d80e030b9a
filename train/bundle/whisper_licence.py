"""Texts of LICENSE for bundles made of Whisper's layers."""

from __future__ import annotations

_WHISPER = (
    "The encoder's weights are those of Whisper base (Radford et al., 2022), copyright (c) 2022\n"
    "OpenAI, MIT licence: permission is granted, free of charge, to deal in them without\n"
    "restriction, provided that this notice and the permission notice are kept; they come\n"
    "without warranty of any kind.\n"
)
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
        "MIT licence. The head in this folder was trained on CREMA-D (Cao et al., 2014, ODbL 1.0\n"
        "and DbCL 1.0: contains information from CREMA-D, which is made available under the\n"
        "Open Database License) and on EMO-DB (Burkhardt et al., 2005, CC0).\n\n" + _WHISPER
    ),
}
"""SPDX identifier → text."""
