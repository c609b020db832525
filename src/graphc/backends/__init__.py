"""What turns regions into kernels. A backend is imported when it is used, never before."""
