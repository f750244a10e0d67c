"""The pages as elements of HTML. Pure: they render what ``reading`` has read."""
