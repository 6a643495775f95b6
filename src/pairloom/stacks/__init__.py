"""Scientific containers: OME-TIFF, OME-Zarr, NIfTI, DICOM, NPZ as stacks of planes with named axes."""
