"""What a release proves about its images: a bill of materials, their provenance, and signatures."""
