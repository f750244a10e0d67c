"""What a release proves about its images: a bill of materials, their provenance, and signatures.

``sbom`` runs in each image, where it finds the packages of Python and of Debian. cyclonedx-bom does
not list those of Debian, and would have to be installed in the image: version 7.5 brings 33
packages with 37 MB.
"""
