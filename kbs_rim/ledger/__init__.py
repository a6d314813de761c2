"""PURE. Records of appraisals and releases."""
