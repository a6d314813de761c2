"""PURE. From what defines a VM (a command line, libvirt's XML, cloud-hypervisor's JSON, an IGVM file) to a workload for it.

The definitions are read in ``kbs_rim.measurement``; here they become rules, and a review that says what each rule means, what the
definition leaves open and what the administrator should know before a secret depends on it.
"""
