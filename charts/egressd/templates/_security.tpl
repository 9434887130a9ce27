{{/* What the collector may do: the least for each mode. */}}

{{/* True where flags switch the DNS tracer on. */}}
{{- define "egressd.dnsTracer" -}}
{{- $extra := default dict .Values.collector.extraArgs -}}
{{- if has (toString (get $extra "ebpf-dns-tracer-enabled")) (list "1" "t" "T" "true" "TRUE" "True") }}true{{ end -}}
{{- end -}}

{{- define "egressd.readsCilium" -}}
{{- if has .Values.collector.ctMode (list "" "cilium") }}true{{ end -}}
{{- end -}}

{{/* Programs of our own in the kernel: counters, which an unnamed mode may choose, or the DNS tracer. */}}
{{- define "egressd.countsInKernel" -}}
{{- if has .Values.collector.ctMode (list "" "ebpf") }}true{{ end -}}
{{- end -}}

{{- define "egressd.loadsBpf" -}}
{{- if or (include "egressd.countsInKernel" .) (include "egressd.dnsTracer" .) }}true{{ end -}}
{{- end -}}

{{/* The sysctls are netfilter's. */}}
{{- define "egressd.collector.init" -}}
{{- if and (not .Values.collector.skipInit) (has .Values.collector.ctMode (list "" "netfilter")) }}true{{ end -}}
{{- end -}}

{{/* NET_ADMIN: conntrack over netlink, and to attach programs. BPF: open Cilium's maps, load programs (Linux 5.8).
SYS_ADMIN and SYS_PTRACE: enter another network namespace through process 1. */}}
{{- define "egressd.collector.capabilities" -}}
{{- $mode := .Values.collector.ctMode -}}
{{- $bpf := include "egressd.loadsBpf" . -}}
{{- $capabilities := list -}}
{{- if or (include "egressd.readsCilium" .) $bpf }}{{ $capabilities = append $capabilities "BPF" }}{{ end -}}
{{- if or (has $mode (list "" "netfilter")) $bpf }}{{ $capabilities = append $capabilities "NET_ADMIN" }}{{ end -}}
{{- if not .Values.collector.hostNetwork }}{{ $capabilities = concat $capabilities (list "SYS_ADMIN" "SYS_PTRACE") }}{{ end -}}
{{- toYaml $capabilities -}}
{{- end -}}

{{- define "egressd.collector.securityContext" -}}
{{- if .Values.collector.containerSecurityContext -}}
{{- toYaml .Values.collector.containerSecurityContext -}}
{{- else -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
  add:
    {{- include "egressd.collector.capabilities" . | nindent 4 }}
seccompProfile:
  type: RuntimeDefault
{{- with .Values.collector.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}
