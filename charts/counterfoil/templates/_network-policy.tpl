{{- /* Ports of a rule. Takes a dict: ports, protocols. */ -}}
{{- define "counterfoil.policyPorts" -}}
{{- range $port := .ports }}
{{- range $.protocols | default (list "TCP") }}
- port: {{ kindIs "string" $port | ternary $port (include "counterfoil.text" $port) }}
  protocol: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A rule for ports at some CIDRs, or anywhere. Takes a dict: cidrs, ports. */ -}}
{{- define "counterfoil.policyCidrs" -}}
- ports:
    {{- include "counterfoil.policyPorts" (dict "ports" .ports) | trim | nindent 4 }}
  {{- with .cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- /* What one thing that a component reaches takes, as rules. Takes a dict: root, what. */ -}}
{{- define "counterfoil.policyEgress" -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- if eq .what "database" -}}
{{- include "counterfoil.policyCidrs" (dict "ports" $policy.databasePorts "cidrs" $policy.databaseCidrs) -}}
{{- else if eq .what "apiServer" -}}
{{- include "counterfoil.policyCidrs" (dict "ports" $policy.apiServerPorts "cidrs" $policy.apiServerCidrs) -}}
{{- else if eq .what "service" -}}
# The pods of the service, canary and stable alike; of a Service the policy sees what stands behind it.
- ports:
    {{- include "counterfoil.policyPorts" (dict "ports" (list .root.Values.service.targetPort)) | trim | nindent 4 }}
  to:
    - podSelector:
        {{- if .root.Values.service.podLabels }}
        matchLabels:
          {{- toYaml .root.Values.service.podLabels | nindent 10 }}
        {{- else }} {}
        {{- end }}
{{- else if eq .what "exporter" -}}
- ports:
    {{- include "counterfoil.policyPorts" (dict "ports" (list .root.Values.exporter.port)) | trim | nindent 4 }}
  to:
    - podSelector:
        matchLabels:
          {{- include "counterfoil.selectorLabels" (dict "root" .root "component" "exporter") | nindent 10 }}
{{- else if eq .what "prometheus" -}}
{{- $url := urlParse .root.Values.metrics.prometheusUrl -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") -}}
- ports:
    {{- include "counterfoil.policyPorts" (dict "ports" (list (int $port))) | trim | nindent 4 }}
{{- end -}}
{{- end -}}
