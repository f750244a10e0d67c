"""Record a command in a terminal, and render the recording as an animated SVG.

The recording is a text file in the format asciicast v2: a header and one line per piece of output.
The pictures are rendered from it alone, so that anybody can reproduce them.

A picture in the README has 62 kB, 6 kB compressed, because it draws each row once, and its phases
have colors. termtosvg-ng 1.4 draws each frame: 303 kB, 34 kB compressed, from the same output.
"""
