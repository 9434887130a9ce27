"""A client that knows nothing of egressd: it learns the services by reflection, follows all flows to the end of the
stream, and prints what it heard, one JSON object a line: the services, each flow's sum, and what it was told last."""

import json
import sys
from collections import defaultdict

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
print(json.dumps({"services": sorted(database.get_services())}))
method = DescriptorPool(database).FindServiceByName("egressd.v1.Flows").FindMethodByName("Subscribe")
request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
subscribe = channel.unary_stream(
    "/egressd.v1.Flows/Subscribe",
    request_serializer=request.SerializeToString,
    response_deserializer=response.FromString,
)

COLUMNS = ["tx_bytes", "tx_packets", "rx_bytes", "rx_packets", "undirected_bytes", "undirected_packets"]
sums = defaultdict(lambda: [0] * len(COLUMNS))
told = {"snapshot_part": 0, "snapshot_end": 0, "batch": 0, "missed": 0}


def pod_of(end):
    return f"{end.namespace}/{end.pod}" if end.pod else None


try:
    for message in subscribe(request()):
        kind = message.WhichOneof("event")
        told[kind] += 1
        if kind not in ("snapshot_part", "batch"):
            continue
        for flow in getattr(message, kind).flows:
            local, remote = flow.local, flow.remote
            key = (local.node, pod_of(local), local.address, remote.address, pod_of(remote), flow.protocol)
            for column, name in enumerate(COLUMNS):
                sums[key][column] += getattr(flow.traffic, name)
except grpc.RpcError as error:
    told["end"] = f"{error.code().name}: {error.details()}"

for (node, pod, local_address, remote_address, remote_pod, protocol), volume in sums.items():
    flow = {"node": node, "pod": pod, "local": local_address, "remote": remote_address, "remote_pod": remote_pod}
    print(json.dumps({"flow": {**flow, "protocol": protocol, **dict(zip(COLUMNS, volume))}}))
print(json.dumps({"told": told}))
