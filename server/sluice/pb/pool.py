"""The descriptor pool of this package's messages.

It is not protobuf's default one: `tritonclient` registers the same names there, and a client must be able to live in the
same process as the server.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
