"""Running a program over rows, scoring each answer, and comparing programs."""
