{{/* Command lines. */}}

{{/* A value as a flag takes it: Helm reads every number as a float, and would write 1048576 as 1.048576e+06. */}}
{{- define "egressd.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* What the chart passes itself, but for flags that extraArgs names; then those. */}}
{{- define "egressd.arguments" -}}
{{- $extra := default dict .extra -}}
{{- range .own }}
{{- if not (hasKey $extra (splitList "=" . | first)) }}
- {{ printf "--%s" . | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $extra }}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" $name (include "egressd.scalar" $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "egressd.grace" -}}
{{- printf "grace=%ds" (max 1 (sub (int .) 5)) -}}
{{- end -}}

{{- define "egressd.exporter.address" -}}
{{- default (printf "%s.%s.svc:%d" (include "egressd.exporter.fullname" .) .Release.Namespace (int .Values.exporter.grpcListenPort)) .Values.collector.exporterAddress -}}
{{- end -}}

{{- define "egressd.collector.arguments" -}}
{{- $collector := .Values.collector -}}
{{- $own := list
  (printf "http-listen-port=%d" (int $collector.httpListenPort))
  (printf "exporter-address=%s" (include "egressd.exporter.address" .))
  (include "egressd.grace" $collector.terminationGracePeriodSeconds) -}}
{{- if $collector.ctMode }}{{ $own = append $own (printf "ct-mode=%s" $collector.ctMode) }}{{ end -}}
{{- if not $collector.hostNetwork }}{{ $own = append $own "host-pid=true" }}{{ end -}}
{{- if $collector.stateDir.enabled }}{{ $own = append $own "state-dir=/run/egressd" }}{{ end -}}
{{- if ne .Values.tls.mode "plaintext" -}}
{{- $own = append $own "tls-ca-file=/etc/egressd/ca/ca.crt" -}}
{{- with include "egressd.serverName" . }}{{ $own = append $own (printf "tls-server-name=%s" .) }}{{ end -}}
{{- if .Values.tls.tokens.enabled }}{{ $own = append $own "token-file=/var/run/secrets/egressd/token" }}{{ end -}}
{{- end -}}
{{- include "egressd.arguments" (dict "own" $own "extra" $collector.extraArgs) -}}
{{- end -}}

{{/* The name that the certificate bears, where it is not the host of the exporter's address. */}}
{{- define "egressd.serverName" -}}
{{- if and (eq .Values.tls.mode "secret") .Values.tls.secret.serverName -}}
{{- .Values.tls.secret.serverName -}}
{{- else if and .Values.collector.exporterAddress (ne .Values.tls.mode "secret") -}}
{{- printf "%s.%s.svc" (include "egressd.exporter.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "egressd.exporter.arguments" -}}
{{- $exporter := .Values.exporter -}}
{{- $own := list
  (printf "http-listen-port=%d" (int $exporter.httpListenPort))
  (printf "grpc-listen-port=%d" (int $exporter.grpcListenPort))
  (include "egressd.grace" $exporter.terminationGracePeriodSeconds) -}}
{{- $own = concat $own (include "egressd.exporter.tlsArguments" . | fromYamlArray) -}}
{{- if $exporter.standby.enabled -}}
{{- $own = append $own "leader-elect=true" -}}
{{- $own = append $own (printf "lease-name=%s" (include "egressd.exporter.fullname" .)) -}}
{{- $own = append $own (printf "lease-duration=%s" $exporter.standby.leaseDuration) -}}
{{- end -}}
{{- if $exporter.spool.enabled -}}
{{- $own = append $own "spool-dir=/var/lib/egressd/spool" -}}
{{- $own = append $own (printf "spool-bytes-max=%d" (int64 $exporter.spool.bytesMax)) -}}
{{- $own = append $own (printf "spool-age-max=%s" $exporter.spool.ageMax) -}}
{{- end -}}
{{- $placement := dict "nodeSelector" .Values.collector.nodeSelector "affinity" .Values.collector.affinity "tolerations" .Values.collector.tolerations -}}
{{- $own = append $own (printf "collectors-on=%s" (toJson $placement)) -}}
{{- if $exporter.flows.expose }}{{ $own = append $own "flows-listen=[::]:6063" }}{{ end -}}
{{- if $exporter.readersToken.existingSecret }}{{ $own = append $own "readers-token-file=/etc/egressd/readers/token" }}{{ end -}}
{{- include "egressd.arguments" (dict "own" $own "extra" $exporter.extraArgs) -}}
{{- end -}}

{{- define "egressd.exporter.tlsArguments" -}}
{{- $name := include "egressd.exporter.fullname" . -}}
{{- if eq .Values.tls.mode "managed" }}
- tls-managed-secret={{ include "egressd.authority" . }}
- tls-managed-config-map={{ include "egressd.authority" . }}
- tls-dns-name={{ $name }}.{{ .Release.Namespace }}.svc
- tls-dns-name={{ $name }}
{{- else if ne .Values.tls.mode "plaintext" }}
- tls-cert-file=/etc/egressd/tls/tls.crt
- tls-key-file=/etc/egressd/tls/tls.key
{{- end }}
{{- if and .Values.tls.tokens.enabled (ne .Values.tls.mode "plaintext") }}
- collector-service-account={{ .Release.Namespace }}/{{ include "egressd.collector.serviceAccount" . }}
- token-audience={{ .Values.tls.tokens.audience }}
{{- end }}
{{- if eq .Values.tls.mode "plaintext" }}[]{{ end }}
{{- end -}}
