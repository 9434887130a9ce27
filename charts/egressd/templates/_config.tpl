{{/* The exporter's configuration file: `config` is filled in, read, overlaid with `structuredConfig`, and filled in again,
so that templates within the latter count too. */}}
{{- define "egressd.exporter.config" -}}
{{- $text := .Values.exporter.config -}}
{{- if not (kindIs "string" $text) }}{{ $text = toYaml $text }}{{ end -}}
{{- $config := tpl $text . | fromYaml -}}
{{- if hasKey $config "Error" -}}
{{- fail (printf "exporter.config is not YAML once its templates are filled in: %s" (get $config "Error")) -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy (default dict .Values.exporter.structuredConfig)) -}}
{{- if not (get $config "sinks") }}{{ $config = omit $config "sinks" }}{{ end -}}
{{- tpl (toYaml $config) . -}}
{{- end -}}

{{- define "egressd.apiKeySecret" -}}
{{- if .Values.castai.apiKeySecretRef -}}
{{- .Values.castai.apiKeySecretRef -}}
{{- else if .Values.castai.apiKey -}}
{{- include "egressd.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* What no single value shows to be wrong. */}}
{{- define "egressd.refuse" -}}
{{- $castai := .Values.castai -}}
{{- if and $castai.apiKey $castai.apiKeySecretRef -}}
{{- fail "castai.apiKey and castai.apiKeySecretRef exclude each other: keep one" -}}
{{- end -}}
{{- if and $castai.clusterID $castai.clusterIdSecretKeyRef.name -}}
{{- fail "castai.clusterID and castai.clusterIdSecretKeyRef.name exclude each other: keep one" -}}
{{- end -}}
{{- if and .Values.exporter.standby.enabled .Values.exporter.spool.enabled -}}
{{- fail "exporter.standby.enabled and exporter.spool.enabled exclude each other: who takes over cannot go on from another's volume" -}}
{{- end -}}
{{- if and (eq .Values.tls.mode "secret") (not .Values.tls.secret.name) -}}
{{- include "egressd.certificate" . -}}
{{- end -}}
{{- end -}}
