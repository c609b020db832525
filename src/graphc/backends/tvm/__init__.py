"""The CPU backend: regions to TVM's TIR at the target's vector width, to objects, to one library."""
