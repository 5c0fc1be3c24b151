"""Reading DICOM and raster files into grey values, and writing DICOM."""
