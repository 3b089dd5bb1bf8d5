"""The records that the parties exchange, each with raw bytes behind it.

Other packages import this package and none of its files.
"""

# ruff: noqa: F403  every public name of these files is a name of the package
from gpumpc.messages.caller_names import *
from gpumpc.messages.client_server import *
from gpumpc.messages.codec import *
from gpumpc.messages.dealer_server import *
from gpumpc.messages.index_tasks import *
from gpumpc.messages.job_records import *
from gpumpc.messages.receipts import *
from gpumpc.messages.server_server import *
