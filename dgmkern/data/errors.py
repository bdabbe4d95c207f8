class DataError(Exception):
    """A data set that is unknown, missing, or not what its checksum or header says."""
