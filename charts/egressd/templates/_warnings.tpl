{{/* What is allowed and yet probably not meant; one line each, for NOTES.txt. */}}
{{- define "egressd.warnings" -}}
{{- $castai := .Values.castai -}}
{{- $collector := .Values.collector -}}
{{- $config := "" -}}
{{- if not .Values.exporter.existingSecretForConfig }}{{ $config = include "egressd.exporter.config" . }}{{ end -}}
{{- if eq .Values.tls.mode "plaintext" }}
- tls.mode is plaintext: whoever reaches port {{ .Values.exporter.grpcListenPort | int }} of the exporter can report traffic as any node and learn which pods run where. Use managed.
{{- else if not .Values.tls.tokens.enabled }}
- tls.tokens.enabled is false: whoever reaches port {{ .Values.exporter.grpcListenPort | int }} of the exporter can report traffic as any node.
{{- end }}
{{- if and $config (not (contains "sinks:" $config)) }}
- No sink is configured: totals are only on the exporter's page /metrics/flows, for a scrape. Set castai.* or exporter.structuredConfig.sinks to have them written.
{{- end }}
{{- if and (or $castai.apiKey $castai.apiKeySecretRef) (not (or $castai.clusterID $castai.clusterIdSecretKeyRef.name)) }}
- castai has a token and no cluster: set castai.clusterID or castai.clusterIdSecretKeyRef.name, else CAST AI refuses every push.
{{- end }}
{{- if and $castai.clusterID (not (or $castai.apiKey $castai.apiKeySecretRef)) (not .Values.exporter.existingSecretForConfig) (not (contains "sinks:" $config)) }}
- castai.clusterID is set and no token: set castai.apiKey or castai.apiKeySecretRef to have anything written there.
{{- end }}
{{- if and (contains "${API_KEY}" $config) (not (include "egressd.apiKeySecret" .)) (not .Values.exporter.extraEnv) (not .Values.exporter.extraEnvFrom) }}
- exporter.config speaks of ${API_KEY}, which nothing sets: set castai.apiKey, castai.apiKeySecretRef or exporter.extraEnv.
{{- end }}
{{- range $what, $image := dict "collector" $collector.image "exporter" .Values.exporter.image }}
{{- if hasPrefix "ghcr.io/castai/egressd/" ($image.repository | toString) }}
- {{ $what }}.image names the original's image, which does not know this chart: egressd-{{ $what }}:{{ $.Chart.AppVersion }} is run. Take {{ $what }}.image out of your values.
{{- end }}
{{- end }}
{{- if not (contains "/" (include "egressd.collector.image" .)) }}
- The images have no registry in their names, so the nodes must have them already. Build them (deploy/README.md, Images), push them to a registry of yours, and set collector.image.repository and exporter.image.repository.
{{- end }}
{{- if and $collector.hostNetwork (ne $collector.dnsPolicy "ClusterFirstWithHostNet") (not $collector.exporterAddress) }}
- collector.dnsPolicy is {{ $collector.dnsPolicy }}: pods on the host's network then ask the node's resolver, which does not know the exporter's Service. Set ClusterFirstWithHostNet, or collector.exporterAddress and, if that is no Service either, tls.secret.serverName.
{{- end }}
{{- if and $collector.hostPID $collector.hostNetwork }}
- collector.hostPID is true and not needed with hostNetwork: set it to false.
{{- end }}
{{- if (default dict $collector.containerSecurityContext).privileged }}
- collector.containerSecurityContext makes the collector privileged, which it does not need: leave it empty, and the chart asks for {{ include "egressd.collector.capabilities" . | fromYamlArray | join ", " }} only.
{{- end }}
{{- if and $collector.skipInit (has $collector.ctMode (list "" "netfilter")) }}
- collector.skipInit is true: net.netfilter.nf_conntrack_acct, nf_conntrack_timestamp and nf_conntrack_events must be 1 on every node; /nodes says where they are not.
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.nodeCIDRs) (eq .Values.tls.mode "plaintext") }}
- networkPolicy.nodeCIDRs is empty and tls.mode plaintext: the collectors' port is open to every pod.
{{- end }}
{{- if and .Values.exporter.flows.expose (not .Values.exporter.readersToken.existingSecret) }}
- exporter.flows.expose is true and exporter.readersToken.existingSecret empty: whoever reaches port 6063 sees all flows.
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.flows (contains "prom_remote_write" $config) }}
- monitoring.serviceMonitor.flows scrapes the series that a sink writes too: in one Prometheus they count twice. Keep one.
{{- end }}
{{- if not $collector.stateDir.enabled }}
- collector.stateDir.enabled is false: what a killed collector had not handed over is lost.
{{- end }}
{{- end -}}
