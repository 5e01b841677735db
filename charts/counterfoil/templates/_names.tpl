{{- /*
The label `installation`, and the beginning of every name: alerts say deploy/<installation>-exporter. At most 40
characters; CronJobs, whose names may have 52, shorten it further.
*/ -}}
{{- define "counterfoil.installation" -}}
{{- if .Values.installation -}}
{{- .Values.installation -}}
{{- else -}}
{{- $name := contains "counterfoil" .Release.Name | ternary .Release.Name (printf "%s-counterfoil" .Release.Name) -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the release %q is too long to begin every name: set installation to at most 40 characters" .Release.Name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release %q cannot begin the name of a Service, which has letters, digits and dashes, a letter first: set installation" .Release.Name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- /* The name of a CronJob, which ends in the job and its mode: alerts find it by them. Takes a dict: root, job. */ -}}
{{- define "counterfoil.cronJobName" -}}
{{- $installation := include "counterfoil.installation" .root -}}
{{- if gt (add (len $installation) (len .job) 1) 52 -}}
{{- $installation = printf "%s-%s" ($installation | trunc 9 | trimSuffix "-") ($installation | sha256sum | trunc 6) -}}
{{- end -}}
{{- printf "%s-%s" $installation .job -}}
{{- end -}}

{{- /* Labels of every object. Takes a dict: root, component (may be left out). */ -}}
{{- define "counterfoil.labels" -}}
{{- /* Above those of the values, which cannot break a selector. */ -}}
{{- merge (include "counterfoil.ownLabels" . | fromYaml) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "counterfoil.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: counterfoil
{{ include "counterfoil.selectorLabels" . }}
{{- end -}}

{{- /* Labels by which pods are selected; never changed for a release that lives. Takes the same dict. */ -}}
{{- define "counterfoil.selectorLabels" -}}
app.kubernetes.io/name: counterfoil
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}
