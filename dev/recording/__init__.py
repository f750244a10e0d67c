"""Record a command in a terminal, and render the recording as an animated SVG.

The recording is a text file in the format asciicast v2: a header and one line per piece of output.
The pictures are rendered from it alone, so that anybody can reproduce them.

A picture in the README has 62 kB, takes 36 s, and colors the phases. From the same recording,
termtosvg-ng 1.4 makes one of 303 kB and 170 s without colors, because our programs print none.
"""
