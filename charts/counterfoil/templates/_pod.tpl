{{- /* The image of every process of ours. */ -}}
{{- define "counterfoil.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Name of a component's objects. Takes a dict: root, component. */ -}}
{{- define "counterfoil.componentName" -}}
{{- printf "%s-%s" (include "counterfoil.installation" .root) .component -}}
{{- end -}}

{{- /* Metadata of a component's pods. Takes a dict: root, component. */ -}}
{{- define "counterfoil.podMetadata" -}}
labels:
  {{- merge (include "counterfoil.labels" . | fromYaml) .root.Values.pod.labels | toYaml | nindent 2 }}
annotations:
  # Pods begin anew when what they were told is different.
  checksum/config: {{ toYaml (list .root.Values.checks .root.Values.jobs.flowProbe.flow) | sha256sum }}
  {{- with .root.Values.pod.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /*
The spec of a pod with one container, which is named for its component.
Takes a dict: root, component; job (its folder); role, settings, further, secrets (see counterfoil.env); resources;
restartPolicy; podDeadlineSeconds; flags (of node); token (whether it gets one of the API server); files (the names of ConfigMaps to mount);
container (a dict of whatever else the container has).
*/ -}}
{{- define "counterfoil.podSpec" -}}
{{- $values := .root.Values -}}
{{- $settings := merge dict (.settings | default dict) (.further | default dict) $values.settings -}}
{{- $files := list -}}
{{- range .files -}}
  {{- if or (and (eq . "checks") $values.checks) (and (eq . "flow") $values.jobs.flowProbe.flow) -}}
    {{- $files = append $files . -}}
  {{- end -}}
{{- end -}}
{{- $ca := and .role $values.database.certificateAuthority.existingSecret -}}
serviceAccountName: {{ include "counterfoil.componentName" . }}
automountServiceAccountToken: {{ .token | default false }}
# A Service named counterfoil-… would put variables into the environment that look like settings.
enableServiceLinks: false
{{- with .restartPolicy }}
restartPolicy: {{ . }}
{{- end }}
{{- with .podDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
# Longer than a run takes to stop by itself.
terminationGracePeriodSeconds: {{ add 10 (get $settings "CF_SHUTDOWN_SECONDS" | default 25 | int) }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with $values.pod.runAsUser }}
  runAsUser: {{ int64 . }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: {{ .component }}
    image: {{ include "counterfoil.image" .root }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [node]
    args:
      {{- range .flags }}
      - {{ . }}
      {{- end }}
      - jobs/{{ .job }}/main.ts
    env:
      {{- include "counterfoil.env" . | trim | nindent 6 }}
    {{- with .container }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    {{- if or $files $ca }}
    volumeMounts:
      {{- range $files }}
      - name: {{ . }}
        mountPath: /etc/counterfoil/{{ . }}
        readOnly: true
      {{- end }}
      {{- if $ca }}
      - name: database
        mountPath: /etc/counterfoil/database
        readOnly: true
      {{- end }}
    {{- end }}
{{- if or $files $ca }}
volumes:
  {{- range $files }}
  - name: {{ . }}
    configMap:
      name: {{ include "counterfoil.componentName" (dict "root" $.root "component" .) }}
  {{- end }}
  {{- if $ca }}
  - name: database
    secret:
      secretName: {{ $ca }}
      items:
        - key: {{ $values.database.certificateAuthority.key }}
          path: {{ $values.database.certificateAuthority.key }}
  {{- end }}
{{- end }}
{{- with $values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
