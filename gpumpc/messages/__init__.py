"""The records that the parties exchange, each with raw bytes behind it.

Other packages import this package and none of its files.
"""

from gpumpc.messages.client_server import Delete as Delete
from gpumpc.messages.client_server import Done as Done
from gpumpc.messages.client_server import Extract as Extract
from gpumpc.messages.client_server import GetFeatures as GetFeatures
from gpumpc.messages.client_server import GetStatus as GetStatus
from gpumpc.messages.client_server import GetStoreStatus as GetStoreStatus
from gpumpc.messages.client_server import IndexAdd as IndexAdd
from gpumpc.messages.client_server import IndexCreate as IndexCreate
from gpumpc.messages.client_server import IndexInfo as IndexInfo
from gpumpc.messages.client_server import IndexRemove as IndexRemove
from gpumpc.messages.client_server import IndexRequest as IndexRequest
from gpumpc.messages.client_server import IndexSearch as IndexSearch
from gpumpc.messages.client_server import ItemList as ItemList
from gpumpc.messages.client_server import ItemRequest as ItemRequest
from gpumpc.messages.client_server import ListItems as ListItems
from gpumpc.messages.client_server import Part as Part
from gpumpc.messages.client_server import PlanStatus as PlanStatus
from gpumpc.messages.client_server import Progress as Progress
from gpumpc.messages.client_server import Queued as Queued
from gpumpc.messages.client_server import Reply as Reply
from gpumpc.messages.client_server import Request as Request
from gpumpc.messages.client_server import Run as Run
from gpumpc.messages.client_server import Settle as Settle
from gpumpc.messages.client_server import Settled as Settled
from gpumpc.messages.client_server import Share as Share
from gpumpc.messages.client_server import ShareWeights as ShareWeights
from gpumpc.messages.client_server import Status as Status
from gpumpc.messages.client_server import StoreStatus as StoreStatus
from gpumpc.messages.codec import ClassName as ClassName
from gpumpc.messages.codec import Count as Count
from gpumpc.messages.codec import Identifier as Identifier
from gpumpc.messages.codec import IndexName as IndexName
from gpumpc.messages.codec import Items as Items
from gpumpc.messages.codec import PlanHash as PlanHash
from gpumpc.messages.codec import pack as pack
from gpumpc.messages.codec import pack_items as pack_items
from gpumpc.messages.codec import result_aad as result_aad
from gpumpc.messages.codec import unpack as unpack
from gpumpc.messages.codec import unpack_items as unpack_items
from gpumpc.messages.dealer_server import DealerTalk as DealerTalk
from gpumpc.messages.dealer_server import Heartbeat as Heartbeat
from gpumpc.messages.dealer_server import WantBatch as WantBatch
from gpumpc.messages.index_tasks import IndexTask as IndexTask
from gpumpc.messages.index_tasks import QueryTask as QueryTask
from gpumpc.messages.index_tasks import RowsTask as RowsTask
from gpumpc.messages.index_tasks import Segment as Segment
from gpumpc.messages.server_server import Accept as Accept
from gpumpc.messages.server_server import Control as Control
from gpumpc.messages.server_server import Idle as Idle
from gpumpc.messages.server_server import Order as Order
from gpumpc.messages.server_server import Refuse as Refuse
