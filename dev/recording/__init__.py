"""Record a command in a terminal, and render the recording as an animated SVG.

The recording is a text file in the format asciicast v2: a header and one line per piece of output.
The pictures are rendered from it alone, so that anybody can reproduce them.
"""
