{{- /*
Name of an object that Prometheus or Grafana reads. In a namespace that is not the release's it begins with the latter:
two installations may have one name, and their rules one namespace. Takes a dict: root, namespace, suffix.
*/ -}}
{{- define "counterfoil.monitoringName" -}}
{{- $name := printf "%s-%s" (include "counterfoil.installation" .root) .suffix -}}
{{- if and .namespace (ne .namespace .root.Release.Namespace) -}}
{{- $name = printf "%s-%s" .root.Release.Namespace $name -}}
{{- end -}}
{{- if gt (len $name) 63 -}}
{{- $name = printf "%s-%s-%s" ($name | trunc (sub 55 (len .suffix) | int) | trimSuffix "-") ($name | sha256sum | trunc 6) .suffix -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* Metadata of such an object. Takes a dict: root, namespace, suffix, labels, annotations. */ -}}
{{- define "counterfoil.monitoringMetadata" -}}
name: {{ include "counterfoil.monitoringName" . }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- merge dict .labels (include "counterfoil.labels" (dict "root" .root) | fromYaml) | toYaml | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* When a target is scraped. Takes a dict: name of the value, scrape (interval, scrapeTimeout). */ -}}
{{- define "counterfoil.scrape" -}}
interval: {{ .scrape.interval }}
{{- with .scrape.scrapeTimeout }}
{{- if gt (include "counterfoil.seconds" . | int) (include "counterfoil.seconds" $.scrape.interval | int) }}
{{- fail (printf "%s.scrapeTimeout is longer than its interval: Prometheus would not take it" $.name) }}
{{- end }}
scrapeTimeout: {{ . }}
{{- end }}
{{- end -}}

{{- /* A duration of seconds or minutes in seconds. */ -}}
{{- define "counterfoil.seconds" -}}
{{- if hasSuffix "m" . -}}{{- mul 60 (trimSuffix "m" . | int) -}}{{- else -}}{{- trimSuffix "s" . -}}{{- end -}}
{{- end -}}

{{- /*
Beginning of the uids of the dashboards. Grafana refuses a uid that two of them have, and one Grafana may show many
installations. Those that are imported by hand keep the uids of dashboards/built.
*/ -}}
{{- define "counterfoil.dashboardUids" -}}
{{- $own := printf "%s/%s" .Release.Namespace (include "counterfoil.installation" .) -}}
{{- if or (eq $own "counterfoil/counterfoil") (not .Values.grafanaDashboards.enabled) -}}
counterfoil
{{- else -}}
{{- printf "counterfoil-%s" ($own | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* A text of a rule with this release in place of the one that alerts/ is written for. Takes a dict: root, text. */ -}}
{{- define "counterfoil.ofThisRelease" -}}
{{- .text
  | replace "namespace=\"counterfoil\"" (printf "namespace=%q" .root.Release.Namespace)
  | replace "installation=\"counterfoil\"" (printf "installation=%q" (include "counterfoil.installation" .root))
  | replace "https://counterfoil.example/runbooks/" (printf "%s/" (.root.Values.prometheusRule.runbookBaseUrl | trimSuffix "/"))
  | replace "https://grafana.example/d/counterfoil-" (printf "%s/%s-" (.root.Values.prometheusRule.dashboardBaseUrl | trimSuffix "/") (include "counterfoil.dashboardUids" .root)) -}}
{{- end -}}

{{- /*
How long a job may be without a success, in seconds; empty where this release does not run it. `default`: as alerts/ has it.
Takes a dict: root, job, mode.
*/ -}}
{{- define "counterfoil.jobAge" -}}
{{- $job := get .root.Values.jobs (.job | camelcase | untitle) -}}
{{- if eq .job "billing-reconciliation" -}}
  {{- if and $job.enabled (get $job .mode).enabled -}}{{- (get $job .mode).maxAgeSeconds | toJson -}}{{- end -}}
{{- else if eq .job "event-replay" -}}
  {{- if and $job.enabled (eq .mode (eq $job.mode "deployment" | ternary "continuous" "once")) -}}
  {{- $job.maxAgeSeconds | default "default" | toString -}}
  {{- end -}}
{{- else if $job.enabled -}}
  {{- $job.maxAgeSeconds | toJson -}}
{{- end -}}
{{- end -}}

{{- /*
Refuses what names no alert, or would break what other rules and the canary read. Takes a dict: values (prometheusRule),
severities (by the name of each alert).
*/ -}}
{{- define "counterfoil.refuseAlertValues" -}}
{{- $severities := .severities -}}
{{- $reserved := list "alertname" "alertstate" "severity" "namespace" "installation" "published_hash" "rollout" "check" "kind" "counterfoil_job" "mode" "collection" -}}
{{- range $value := list "disabled" "overrides" -}}
  {{- range $key, $_ := get $.values $value -}}
    {{- $parts := splitList "/" $key -}}
    {{- $known := get $severities (first $parts) -}}
    {{- if not $known -}}
      {{- fail (printf "prometheusRule.%s names %s: there is no such alert; alerts/README.md lists them" $value (first $parts)) -}}
    {{- end -}}
    {{- if and (gt (len $parts) 1) (not (has (rest $parts | join "/") $known)) -}}
      {{- fail (printf "prometheusRule.%s names %s: the severities of that alert are %s" $value $key (join ", " $known)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $label, $_ := .values.alertLabels -}}
  {{- if has $label $reserved -}}
    {{- fail (printf "prometheusRule.alertLabels has %s: rules, inhibition and the canary read that label; choose another name" $label) -}}
  {{- end -}}
{{- end -}}
{{- range $key, $override := .values.overrides -}}
  {{- $place := printf "prometheusRule.overrides.%s" $key -}}
  {{- range $field, $_ := $override -}}
    {{- if not (has $field (list "for" "severity" "labels" "annotations")) -}}
      {{- fail (printf "%s has %s: for, severity, labels and annotations may differ" $place $field) -}}
    {{- end -}}
  {{- end -}}
  {{- range $label, $_ := $override.labels -}}
    {{- if has $label $reserved -}}
      {{- fail (printf "%s.labels has %s: rules, inhibition and the canary read that label; choose another name" $place $label) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (hasKey $override "for") (not (regexMatch "^([0-9]+(ms|[smhdw]))+$" (toString $override.for))) -}}
    {{- fail (printf "%s.for is no duration such as 5m" $place) -}}
  {{- end -}}
  {{- if hasKey $override "severity" -}}
    {{- $known := get $severities (splitList "/" $key | first) -}}
    {{- if not (has $override.severity (list "critical" "warning" "info")) -}}
      {{- fail (printf "%s.severity is none of critical, warning, info" $place) -}}
    {{- end -}}
    {{- if and (gt (len $known) 1) (or (not (contains "/" $key)) (has $override.severity $known)) -}}
      {{- fail (printf "%s.severity: the alert has the severities %s, and no two of its rules may have one" $place (join ", " $known)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- /* One sentence for each thing about what is scraped that cannot be had together, as a list. */ -}}
{{- define "counterfoil.scrapeProblems" -}}
{{- with .Values.metrics }}
{{- if and .podMonitor.enabled .serviceMonitor.enabled }}
- "metrics.podMonitor.enabled and metrics.serviceMonitor.enabled: the exporter would be scraped twice; choose one"
{{- end }}
{{- if and .service.enabled .service.elsewhere }}
- "metrics.service.enabled and metrics.service.elsewhere: the service would be scraped twice, and each event count as two; choose one"
{{- end }}
{{- if and .service.enabled (not (include "counterfoil.serviceLabels" $)) }}
- "metrics.service.enabled needs service.podLabels: without them every pod of the namespace would be scraped"
{{- end }}
{{- end }}
{{- if and .Values.rollout.enabled (not .Values.metrics.service.enabled) (not .Values.metrics.service.elsewhere) }}
{{- $deciding := list }}
{{- range include "counterfoil.gates" . | fromYamlArray }}
{{- if and (has . (list "errors" "latency")) (not (has . $.Values.rollout.gates.observe)) }}{{- $deciding = append $deciding . }}{{- end }}
{{- end }}
{{- with $deciding }}
- {{ printf "the gates %s of rollout.steps would never see the canary: each series of the service has to name its pod's version; set metrics.service.enabled, or metrics.service.elsewhere where a monitor of yours sees to it" (join " and " .) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The labels of the guarded service's pods, as YAML; empty where nobody has said them. */ -}}
{{- define "counterfoil.serviceLabels" -}}
{{- with .Values.service.podLabels | default .Values.rollout.selector.matchLabels -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}
