"""Operations with one definition and several backends; a folder per operation."""
