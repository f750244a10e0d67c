"""The tested versions of Kubernetes, Helm, Python and Argo CD, and the pages that list them."""
