"""The flags that name the three dictionaries."""

from __future__ import annotations

import argparse

from src.process.flags import path_text_flag


def add_dictionary_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --max_dict, --min_dict and --map_dict, with the names that process_data.py writes."""
    flag = parser.add_argument
    flag(
        "--max_dict",
        type=path_text_flag,
        default="./all_val_max_dict.pkl",
        help="largest value of each dense column",
    )
    flag(
        "--min_dict",
        type=path_text_flag,
        default="./all_val_min_dict.pkl",
        help="smallest value of each dense column",
    )
    flag(
        "--map_dict",
        type=path_text_flag,
        default="./cat2id_dict.pkl",
        help="ids of columns and categorical values",
    )
