"""Files of SAEs, in this project's and other tools' formats."""
